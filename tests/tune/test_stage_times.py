"""History: medians of the nearest trials, and of the shipped winners where there are none."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import PROBLEM, TARGET, add_trial
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.store.database import Database
from tuner.tune.stage_times import LEAST_TRIALS, History

OTHER = PROBLEM.replace(hidden=128)
HALF = PROBLEM.replace(dtype="bfloat16", weight_dtype="bfloat16")


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def ran(db: Database, compile_s: float, *, problem: Problem = PROBLEM, tokens: int = 16,
        session: str = "s", verify_s: float = 0.1, count: int = LEAST_TRIALS) -> None:  # fmt: skip
    for _ in range(count):
        add_trial(
            db, tokens, problem=problem, session=session, compile_ms=1e3 * compile_s,
            verify_ms=1e3 * verify_s, benchmark_ms=500.0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "compile_s", "source"),
    [
        ("tokens problem dtype any", 1.0, "medians of 3 trials of this problem at T=16 on this machine"),
        ("problem dtype any", 2.0, "medians of 3 trials of this problem on this machine"),
        ("dtype any", 3.0, "medians of 3 trials of float32 problems on this machine"),
        ("any", 4.0, "medians of 3 trials of any problem on this machine"),
    ],
)  # fmt: skip
def test_the_nearest_trials_count(known: str, compile_s: float, source: str, db: Database) -> None:
    if "tokens" in known:
        ran(db, 1.0)
    if "problem" in known:
        ran(db, 2.0, tokens=1)
    if "dtype" in known:
        ran(db, 3.0, problem=OTHER)
    ran(db, 4.0, problem=HALF)
    times = History(db, TARGET).times(PROBLEM, Workload(16))
    assert (times.compile_s, times.source) == (compile_s, source)


def test_too_few_near_trials_are_counted_with_those_further_away(db: Database) -> None:
    ran(db, 1.0, count=2)
    ran(db, 5.0, tokens=1, count=1)
    times = History(db, TARGET).times(PROBLEM, Workload(16))
    assert times.source == "medians of 3 trials of this problem on this machine"
    assert times.compile_s == 1.0


def test_one_trial_is_better_than_another_machines(db: Database) -> None:
    ran(db, 1.0, count=1)
    times = History(db, TARGET).times(OTHER, Workload(1))
    assert times.source == "medians of 1 trials of any problem on this machine"


def test_the_first_verification_of_a_session_is_told_apart(db: Database) -> None:
    for session in ("s1", "s2"):
        ran(db, 1.0, session=session, verify_s=2.1, count=1)
        ran(db, 1.0, session=session, verify_s=0.1, count=4)
    times = History(db, TARGET).times(PROBLEM, Workload(16))
    assert (times.verify_s, times.first_s) == (0.1, 2.0)


def test_trials_that_failed_half_way_tell_nothing(db: Database) -> None:
    ran(db, 1.0)
    for _ in range(9):
        add_trial(db, 16, status="crash", compile_ms=9e3, verify_ms=None, benchmark_ms=None)
    assert History(db, TARGET).times(PROBLEM, Workload(16)).compile_s == 1.0


def test_another_machines_trials_are_no_history(db: Database) -> None:
    ran(db, 1.0)
    elsewhere = dataclasses.replace(TARGET, cores=64)
    assert (
        "this machine has no trials" in History(db, elsewhere).times(PROBLEM, Workload(16)).source
    )


def test_without_history_the_shipped_winners_are_the_stated_assumption(db: Database) -> None:
    granite = Problem.preset("granite-3.0-1b-a400m")
    times = History(db, TARGET).times(granite, Workload(16))
    assert times.source.startswith("assumed, as this machine has no trials: medians of ")
    assert " trials of this problem" in times.source
    assert " behind the winners that moetune ships, measured on " in times.source
    assert min(times.compile_s, times.verify_s, times.benchmark_s) > 0
