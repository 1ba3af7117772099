"""What peers took: rows that are only ever added, in databases of before, too."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rows import CREATED, PROBLEM, TARGET, add_winner
from tuner.errors import DatabaseError
from tuner.store import migrations
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow

LATER = "2026-01-09T03:04:05+00:00"


def row(db: Database, tokens: int = 1, **more: object) -> PeerTimeRow:
    """A row of torch beside ours."""
    made = PeerTimeRow(
        problem_id=db.add_problem(PROBLEM), target_id=db.add_target(TARGET), tokens=tokens,
        load="uniform", peer="torch", version="2.13", form="F.linear", dtype="float32",
        median_ns=200.0, low_ns=190.0, high_ns=210.0, ours_ns=100.0, ratio=2.0, ratio_low=1.9,
        ratio_high=2.1, variant="k_a8", match="exact", machine="Test CPU", session="s",
        created=CREATED,
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


def test_what_goes_in_comes_out_oldest_first(database: Path) -> None:
    with Database(database) as db:
        later, alone = row(db, created=LATER), row(db, 16, ours_ns=None, ratio=None, ratio_low=None,
                                                   ratio_high=None, low_ns=None, high_ns=None)  # fmt: skip
        db.record_peer_times([later, alone])
        assert db.peer_times(PROBLEM.digest) == [alone, later]
        assert db.peer_times(PROBLEM.digest, TARGET.digest) == [alone, later]
        assert db.peer_times(PROBLEM.digest, "other") == db.peer_times("other") == []


def test_the_time_of_recording_unless_given(database: Path) -> None:
    with Database(database) as db:
        db.record_peer_times([row(db, created="")])
        assert db.peer_times(PROBLEM.digest)[0].created > CREATED


@pytest.mark.parametrize(
    "wrong",
    [{"peer": ""}, {"median_ns": -1.0}, {"low_ns": 201.0}, {"ratio_high": 1.5}, {"problem_id": "x"}],
)  # fmt: skip
def test_all_rows_or_none(database: Path, wrong: dict[str, object]) -> None:
    with Database(database) as db:
        with pytest.raises(DatabaseError, match="constraint failed"):
            db.record_peer_times([row(db), row(db, **wrong)])
        assert db.peer_times(PROBLEM.digest) == []


def test_a_database_of_before_takes_them(database: Path) -> None:
    raw = sqlite3.connect(database)
    migrations.migrate(raw, migrations.MIGRATIONS[:6])
    raw.commit()
    raw.close()
    with Database(database) as db:
        add_winner(db)
        db.record_peer_times([row(db)])
        assert [found.peer for found in db.peer_times(PROBLEM.digest)] == ["torch"]
