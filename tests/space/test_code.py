"""What makes another kernel, and what does not, by the digests of texts and of templates."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toys import copied, installed
from tuner.space import code, parse, templates

TEXT = '''"""What it is."""

from std.math import exp

comptime ROWS = {{ rows }}  # of a tile


@always_inline
def twice(x: Int) -> Int:
    """x and x: it's easy."""
    # "no string
    return x + x  # '


{% if rows > 1 %}
def many(label: String) -> String:
    return label + "# no comment"
{% else %}
def many(label: String) -> String:
    return "one"
{% endif %}


def main():
{% if rows > 1 %}
    print(twice(ROWS))
{% endif %}
    print("""
    # a string
    """)
'''


def changed(old: str, new: str) -> bool:
    assert old in TEXT
    return code.digest(TEXT.replace(old, new)) != code.digest(TEXT)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""What it is."""\n', ""),
        ("  # of a tile", ""),
        ("# \"no string", "# other {# words #}"),
        ("    # \"no string\n", "\n\n"),
        ('"""x and x: it\'s easy."""', '"""Two\n    lines: x # x."""'),
        ("\n\n\ndef main", "\ndef main"),
        ("def main():\n", "def main():  \n"),
        ("{% if rows > 1 %}\ndef", "{# many rows #}\n{% if rows > 1 %}\ndef"),
    ],
)  # fmt: skip
def test_what_is_not_code_does_not_count(old: str, new: str) -> None:
    assert not changed(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x + x", "x * x"),
        ("@always_inline\n", ""),
        ("# no comment", "# a comment"),
        ("# a string", "# another"),
        ("{{ rows }}", "{{ rows + 1 }}"),
        ("rows > 1 %}\ndef", "rows > 2 %}\ndef"),
        ("{% if rows > 1 %}\n    print", "{% if rows > 2 %}\n    print"),
        ("    print(twice", "        print(twice"),
        ("import exp", "import exp, log"),
        ("{% else %}\n", "{% endif %}\n{% if rows > 1 %}\n"),
    ],
)
def test_code_counts(old: str, new: str) -> None:
    assert changed(old, new)


def test_the_order_of_definitions_does_not_count_but_that_of_statements_does() -> None:
    units = ("@a\ndef f():\n    g()\n    h()\n", "comptime N = 1\n", "struct S:\n    var x: Int\n")
    whole = code.digest("".join(units))
    assert code.digest("".join(reversed(units))) == whole
    assert code.digest("".join(units).replace("g()\n    h()", "h()\n    g()")) != whole


def test_statements_of_jinja_in_the_midst_of_a_definition_do_not_cut_it() -> None:
    text = "def f():\n    a()\n{% set n = 1 %}\n{% if n %}\n    b()\n{% endif %}\n    c()\ndef g():\n    d()\n"
    assert code.digest(text) != code.digest(
        text.replace("    c()\n", "").replace("    d()", "    c()\n    d()")
    )
    assert len(list(code._units(code.stripped(text).splitlines()))) == 2


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path)


def digest(folder: Path, name: str = "moe_gpu") -> str:
    with installed(folder):
        return templates.digest(name)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_template_s_comment_does_not_change_its_digest(folder: Path) -> None:
    before = digest(folder)
    edit(folder / "moe_gpu/combine.mojo.j2", "# elements of 16 bytes", "# said otherwise")
    edit(folder / "moe_gpu/combine.mojo.j2", "A thread sums", "Each thread sums")
    edit(folder / "moe_gpu.mojo.j2", "Mixture-of-Experts", "Mixture of experts")
    assert digest(folder) == before


def test_an_operator_of_a_template_changes_its_digest(folder: Path) -> None:
    before = digest(folder), digest(folder, "moe_cpu")
    edit(folder / "moe_gpu/combine.mojo.j2", "* weight", "+ weight")
    assert digest(folder) != before[0]
    assert digest(folder, "moe_cpu") == before[1]


def test_a_definition_that_moves_to_another_file_does_not_change_the_digest(folder: Path) -> None:
    """From the products to a file of its own, and a macro to the list's file."""
    before, products = digest(folder), folder / "moe_gpu/products.mojo.j2"
    text = products.read_text()
    start, end = (
        text.index("{% macro product"),
        text.index("{% endmacro %}") + len("{% endmacro %}\n"),
    )
    edit(products, text[start:end], "")
    lists = folder / "moe_gpu/lists.mojo.j2"
    lists.write_text(lists.read_text() + "\n\n" + text[start:end])
    assert digest(folder) == before
    combine = folder / "moe_gpu/combine.mojo.j2"
    text = combine.read_text()
    constants = "comptime COMBINE_THREADS = 256\n"
    edit(combine, constants, "")
    (folder / "moe_gpu/constants.mojo.j2").write_text(constants)
    edit(lists, "\n", '\n{% include "moe_gpu/constants.mojo.j2" %}\n')
    assert digest(folder) == before


def test_a_definition_that_leaves_its_condition_changes_the_digest(folder: Path) -> None:
    before, combine = digest(folder), folder / "moe_gpu/combine.mojo.j2"
    edit(combine, "comptime COMBINE_THREADS = 256\n", "")
    hopper = folder / "moe_gpu/hopper.mojo.j2"
    hopper.write_text(hopper.read_text() + "\n\ncomptime COMBINE_THREADS = 256\n")
    assert digest(folder) != before


def test_a_file_that_is_not_included_does_not_count(folder: Path) -> None:
    before = digest(folder)
    edit(folder / "shared/pool.mojo.j2", "20_000", "30_000")
    assert digest(folder) == before
    assert digest(folder, "moe_cpu") != digest(templates.folder(), "moe_cpu")


@pytest.mark.parametrize(
    ("name", "former"), [("moe_cpu", "9a02fb168b05a4e2"), ("moe_gpu", "a198377edb79c3e9")]
)
def test_what_stored_winners_were_made_with_is_current(name: str, former: str) -> None:
    assert parse.is_current(name, former)
    assert parse.is_current(name, templates.digest(name))
    assert not parse.is_current(name, "t0")
    assert not parse.is_current(name, "")
    assert not parse.is_current("moe_gone", former)
