"""Running: the sessions that have not ended and recorded a trial a short while ago."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tuner.store import listings
from tuner.store.database import Database

# A trial takes seconds, compiling a batch and the finals minutes. What is silent for longer was stopped.
SILENT = timedelta(minutes=10)


@dataclass(frozen=True)
class Running:
    """A session in progress.

    Attributes:
        trials: how many it recorded so far, of all its workloads.
        first, last: when the first and the last were recorded, UTC, ISO 8601.
        tokens, load: the workload of the last.
        status: how the last one ended.
    """

    session: str
    problem_id: str
    problem_name: str
    target_id: str
    machine: str
    trials: int
    first: str
    last: str
    tokens: int
    load: str
    status: str


def running(db: Database) -> list[Running]:
    """The sessions in progress, the one with the newest trial first."""
    since = (datetime.now(UTC) - SILENT).isoformat(timespec="seconds")
    return [_running(db, row) for row in listings.running(db, since)]


def running_of(db: Database, problem_id: str, target_id: str) -> Running | None:
    """The session in progress of one problem on one target."""
    here = (problem_id, target_id)
    return next((r for r in running(db) if (r.problem_id, r.target_id) == here), None)


def _running(db: Database, row: Mapping[str, Any]) -> Running:
    newest = db.trial(row["newest"])
    names = ("session", "problem_id", "problem_name", "target_id", "trials", "first", "last")
    return Running(
        **{name: row[name] for name in names},
        machine=row["target_name"] or row["arch"],
        tokens=newest.tokens,
        load=newest.load,
        status=newest.status,
    )
