"""The winners that ship: as rows they are what an import of the file makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.errors import DatabaseError
from tuner.problem import PRESETS
from tuner.store import generate, shipped

FORMER = Path(__file__).parents[1] / "former" / "best.jsonl"


def rows_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setattr(shipped, "_PLACES", (path,))
    return sorted(shipped.winners(), key=order)


def order(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("problem_id", "target_id", "load", "tokens"))


@pytest.mark.parametrize("path", [shipped.path(), FORMER], ids=["shipped", "former"])
def test_a_row_is_that_of_an_import(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the numbers of trials, which are those of one database."""
    imported = sorted(generate.winners_of_text(path), key=order)
    numbers = {"trial_id": None, "default_trial_id": None}
    assert rows_of(path, monkeypatch) == [row | numbers for row in imported]


def test_a_problem_has_its_own() -> None:
    granite = PRESETS["granite-3.0-1b-a400m"]
    own = shipped.winners(granite)
    assert own == tuple(row for row in shipped.winners() if row["problem"] == granite.key)
    assert 0 < len(own) < len(shipped.winners())
    assert shipped.winners(granite.replace(hidden=64)) == ()


def test_they_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    assert shipped.winners() == ()


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best.jsonl").write_text('{"problem": {}}\n')
    with pytest.raises(DatabaseError, match=r"best\.jsonl: cannot be read .*; install moetune"):
        rows_of(tmp_path / "best.jsonl", monkeypatch)
    with pytest.raises(DatabaseError, match=r"db/best\.jsonl: not found"):
        rows_of(tmp_path / "none.jsonl", monkeypatch)
