"""Running: sessions that have not ended and are not silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.rows import PROBLEM, TARGET, add_trial
from tuner.report.running import SILENT, running, running_of
from tuner.store.database import Database
from tuner.store.records import SessionRow


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def test_a_session_in_progress(database: Path) -> None:
    first, last = ago(60), ago(3)
    with Database(database) as db:
        add_trial(db, 1, session="s", created=first)
        add_trial(db, 16, session="s", created=last, status="wrong")
        (found,) = running(db)
        assert running_of(db, PROBLEM.digest, TARGET.digest) == found
        assert running_of(db, PROBLEM.digest, "other") is None
    assert (found.trials, found.first, found.last) == (2, first, last)
    assert (found.tokens, found.load, found.status) == (16, "uniform", "wrong")
    assert (found.problem_name, found.machine) == ("small", "Test CPU")


def test_what_ended_or_fell_silent_is_none(database: Path) -> None:
    with Database(database) as db:
        assert running(db) == []
        add_trial(db, session="silent", created=ago(SILENT.total_seconds() + 60))
        add_trial(db, session="", created=ago(1))  # imported
        add_trial(db, session="ended", created=ago(1))
        db.record_session(
            SessionRow(id="ended", target_id=TARGET.digest, problem_id=PROBLEM.digest, data={})
        )
        assert running(db) == []
