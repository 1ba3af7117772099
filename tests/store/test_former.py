"""Rows that a moetune wrote to which `workers` was the number of compiled-in threads: tests/former holds them.

Two targets, with two and four cores. On both, half of the cores won at one token and all of them at 16.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tuner.space.variant import make
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best
from tuner.store.merge import merge

FORMER = Path(__file__).parents[1] / "former"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    connection = sqlite3.connect(tmp_path / "former.sqlite3")
    connection.executescript((FORMER / "database.sql").read_text())
    connection.close()
    with Database(tmp_path / "former.sqlite3") as opened:
        yield opened


def winners(db: Database) -> dict[tuple[int, int], int]:
    """Cores and tokens -> workers."""
    return {(row["target"]["cores"], row["tokens"]): row["config"]["workers"] for row in db.best()}


ALL_OR_HALF = {(2, 1): 1, (2, 16): 0, (4, 1): 2, (4, 16): 0}


def test_a_database_of_before(db: Database) -> None:
    assert winners(db) == ALL_OR_HALF
    trials = [trial for cell in db.workloads() for trial in trials_of(db, cell)]
    assert sorted(trial.config["workers"] for trial in trials) == [0, 0, 0, 0, 0, 0, 1, 2]
    for trial in trials:
        made = make(trial.template, trial.config)
        told = (trial.variant_id, trial.variant, trial.pack)
        assert told == (made.id, made.name, made.pack)


def trials_of(db: Database, cell: dict[str, Any]) -> list[Any]:
    return db.trials(cell["problem_id"], cell["target_id"], cell["tokens"], cell["load"])


def test_what_no_trial_has_any_more_is_gone(db: Database) -> None:
    """Two threads are all on one target and half on the other: that variant stays."""
    names = [row["name"] for row in db.query("SELECT name FROM variants", {})]
    assert sorted(name.split("_l8_")[1].split("_")[0] for name in names) == ["w0", "w0", "w1", "w2"]


def test_sessions_of_before_name_the_variants_as_they_are_now(db: Database) -> None:
    for row in db.best():
        for session in db.sessions(row["problem_id"], row["target_id"]):
            (cell,) = session.data["cells"]
            assert session.data["kept"] == [cell["winner"]]
            assert "_w0_" in cell["winner"]


def test_lines_of_before(db: Database, tmp_path: Path) -> None:
    """They read as the database does, whoever takes them."""
    with Database(tmp_path / "imported.sqlite3") as imported:
        assert import_best(imported, FORMER / "best.jsonl") == 4
        assert winners(imported) == ALL_OR_HALF
        export_best(imported, tmp_path / "imported.jsonl")
    export_best(db, tmp_path / "migrated.jsonl")
    text = (tmp_path / "imported.jsonl").read_bytes()
    assert text == (tmp_path / "migrated.jsonl").read_bytes()
    with Database(tmp_path / "merged.sqlite3") as merged:
        merge(merged, (FORMER / "best.jsonl").read_bytes(), "a file")
        assert winners(merged) == ALL_OR_HALF
        assert {line.outcome for line in merge(merged, text, "another")} == {"same"}
