"""History: finals and audits by date, of which the winner stands for all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tests.rows import CREATED, PROBLEM, TARGET, add_trial
from tuner.problem.workload import Workload
from tuner.report.history import Occasion, change, occasions
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, SessionRow

WORKLOAD = Workload(128, "uniform")


def timed(kind: str, created: str, ns: float, **more: Any) -> MeasurementRow:
    fields = {"samples": (ns,), "ratio": 0.9, "low_ns": ns - 2, "high_ns": ns + 2}
    return MeasurementRow(kind=kind, created=created, median_ns=ns, **{**fields, **more})


def measured(database: Path, rows: dict[str, list[MeasurementRow]], won: str) -> list[Occasion]:
    """The occasions of trials (by variant) of one session, which `won` won."""
    with Database(database) as db:
        for variant, taken in rows.items():
            trial = add_trial(db, variant=variant)
            for row in taken:
                db.record_measurement(trial.id or 0, row)
        keys = (PROBLEM.digest, TARGET.digest)
        cell = {"workload": {"tokens": 128, "load": "uniform"}, "winner": won}
        session = SessionRow(id="s", target_id=keys[1], problem_id=keys[0], data={"cells": [cell]})
        trials = db.trials(*keys, 128, "uniform")
        return list(occasions(trials, [session], WORKLOAD, {}))


def test_the_winner_stands_for_its_finals(database: Path) -> None:
    """The fastest was not proven in both processes; audits are occasions of their own."""
    at, later = "2026-01-02T03:05:00+00:00", "2026-01-09T03:05:00+00:00"
    found = measured(
        database,
        {
            "fast": [timed("final", at, 90, ratio=0.8)],
            "won": [timed("final", at, 100), timed("audit", later, 110)],
            "default": [timed("final", at, 111, ratio=1.0), timed("audit", later, 112, ratio=1.0)],
        },
        "won",
    )
    told = [(one.created, one.kind, one.variant, one.median_ns) for one in found]
    assert told == [(at, "final", "won", 100), (later, "audit", "won", 110)]


def test_an_imported_measurement_is_of_the_day_of_its_trial(database: Path) -> None:
    row = timed("final", "2026-03-01T00:00:00+00:00", 100, samples=(), ratio=None)
    with Database(database) as db:
        trial = add_trial(db)
        db.record_measurement(trial.id or 0, row)
        trials = db.trials(PROBLEM.digest, TARGET.digest, 128, "uniform")
    (found,) = occasions(trials, [], WORKLOAD, {trial.id or 0: 0.7})
    assert (found.created, found.ratio) == (CREATED, 0.7)


def occasion(created: str, ns: float, temperature: str = "cold") -> Occasion:
    return Occasion(created, "final", "k", temperature, ns, ns - 2, ns + 2, 0.9, "Mojo")


def test_a_change_is_one_whose_intervals_lie_apart() -> None:
    first, same, slower = occasion("a", 100), occasion("b", 103), occasion("c", 110)
    assert change([first]) is None
    assert change([]) is None
    near, far = change([first, same]), change([first, same, slower])
    assert near is not None
    assert far is not None
    assert (near.before, near.told_apart) == (first, False)
    assert (far.before, far.ratio, far.told_apart) == (same, 110 / 103, True)


def test_warm_and_cold_are_not_compared() -> None:
    cold, warm = occasion("a", 100), occasion("b", 50, "warm")
    assert change([cold, warm]) is None
    later = dataclasses.replace(cold, created="c")
    found = change([cold, warm, later])
    assert found is not None
    assert found.before == cold
