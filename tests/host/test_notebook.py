"""Tables for notebooks."""

from __future__ import annotations

from tuner.host.notebook import table

LEFT = 'style="text-align: left"'


def test_a_table() -> None:
    assert table("T", [("a", 1)], ("name", "value")) == (
        f"<table><caption {LEFT}>T</caption>"
        f"<tr><th {LEFT}>name</th><th {LEFT}>value</th></tr>"
        f"<tr><th {LEFT}>a</th><td {LEFT}>1</td></tr></table>"
    )


def test_whatever_it_holds_is_escaped() -> None:
    made = table("<b>", [("<i>", "<script>&\"'")])
    assert made == (
        f"<table><caption {LEFT}>&lt;b&gt;</caption>"
        f"<tr><th {LEFT}>&lt;i&gt;</th><td {LEFT}>&lt;script&gt;&amp;&quot;&#x27;</td></tr></table>"
    )
