"""Machines side by side: every target and type of a layer, and which is surely the fastest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tests.rows import PROBLEM, TARGET, add_trial, winner_of
from tuner.problem import Problem
from tuner.report.answers import which_machine
from tuner.report.machines import SideBySide, side_by_side
from tuner.store.database import Database
from tuner.store.records import MeasurementRow
from tuner.target import Target

OTHER = dataclasses.replace(TARGET, arch="znver4", name="Newer CPU")
HALF = PROBLEM.replace(dtype="bfloat16")


def won(
    db: Database, ns: float, tokens: int = 128, target: Target = TARGET, problem: Problem = PROBLEM
) -> None:
    trial = add_trial(db, tokens, target=target, problem=problem)
    row = MeasurementRow(median_ns=ns, low_ns=0.95 * ns, high_ns=1.05 * ns, kind="final")
    db.record_measurement(trial.id or 0, row)
    db.record_winner(winner_of(trial, median_ns=ns))


def test_every_machine_and_type_is_a_column(database: Path) -> None:
    with Database(database) as db:
        won(db, 100)
        won(db, 300, 1024)
        won(db, 50, target=OTHER)
        won(db, 20, problem=HALF)
        won(db, 1, problem=PROBLEM.replace(top_k=1))  # another layer
        found = side_by_side(db, PROBLEM)
    labels = [(one.label, one.problem.dtype) for one in found.machines]
    assert labels == [
        ("Test CPU (znver3, 4 cores)", "float32"),
        ("Newer CPU (znver4, 4 cores)", "float32"),
        ("Test CPU (znver3, 4 cores)", "bfloat16"),
    ]
    rows = [
        (row.tokens, [time and (time.median_ns, time.over_fastest, time.fastest) for time in row.times])
        for row in found.rows
    ]  # fmt: skip
    assert rows == [
        (128, [(100, 5.0, False), (50, 2.5, False), (20, 1.0, True)]),
        (1024, [(300, 1.0, False), None, None]),
    ]
    assert [row.tokens for row in found.shared] == [128]
    assert which_machine(found) == (
        "Test CPU (znver3, 4 cores) in bfloat16 is 2.50 times as fast as the next at 128 tokens."
    )


def test_intervals_that_overlap_decide_nothing(database: Path) -> None:
    with Database(database) as db:
        won(db, 100)
        won(db, 104, target=OTHER)
        told = which_machine(side_by_side(db, PROBLEM))
    assert told == "at 128 tokens no machine is surely the fastest."


def test_one_machine_is_no_comparison(database: Path) -> None:
    with Database(database) as db:
        won(db, 100)
        alone = which_machine(side_by_side(db, PROBLEM))
        won(db, 10, problem=HALF)
        types = which_machine(side_by_side(db, PROBLEM))
    assert alone == "Only this machine was tuned for this layer."
    assert types.startswith(f"{alone} Test CPU (znver3, 4 cores) in bfloat16 is 10.00 times")
    assert which_machine(SideBySide((), ())) == alone
