"""How a Selection and a Target show themselves."""

from __future__ import annotations

from pathlib import Path

from tests.programs import Two
from tuner.target import named


def test_a_selection_in_two_lines(tmp_path: Path) -> None:
    selection = Two(tmp_path).select(7, "zipf:1.2", None)
    assert repr(selection) == (
        "<Selection small for 7 tokens, load zipf:1.2, nvidia-h100\n match exact: tuned>"
    )


def test_a_selection_as_a_table(tmp_path: Path) -> None:
    made = Two(tmp_path).select(7, "uniform", None)._repr_html_()
    for cell in ("small", "7", "uniform", "exact", "tuned", named("nvidia-h100").describe()):
        assert f">{cell}</td>" in made


def test_a_target_is_a_line_without_its_features() -> None:
    card = named("nvidia-h100")
    assert repr(card) == f"<Target {card.describe()}>"
