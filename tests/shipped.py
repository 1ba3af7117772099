"""A database with winners of the tiny problem, as a session would have left it, to build bundles from."""

from __future__ import annotations

from pathlib import Path

from tests.kernels import TINY, variant
from tuner.codegen.compile import toolchain_version
from tuner.problem import Problem
from tuner.space.variant import Variant
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, WinnerRow
from tuner.target import detect

# Their reach, eight times up and down, covers every count: no default is compiled besides.
TUNED = (1, 64, 4096, 1 << 18, 1 << 24)


def record(path: Path, fraction: float = 1e-6, problem: Problem = TINY, **changes: int) -> Variant:
    """A database where one variant won every count, at this fraction of the ceiling."""
    winner, target = variant(problem, changes), detect()
    with Database(path) as db:
        ids = (db.add_target(target), db.add_problem(problem))
        variant_id = db.add_variant(
            winner.id, winner.template, winner.name, winner.config, winner.pack
        )
        for count in TUNED:
            trial = db.record_trial(
                TrialRow(
                    target_id=ids[0], problem_id=ids[1], variant_id=variant_id, tokens=count,
                    load="uniform", status="ok", environment={"toolchain": toolchain_version()},
                    created="2026-01-02T03:04:05+00:00",
                ),
                MeasurementRow(
                    median_ns=1e5 * count, low_ns=1e5, high_ns=1e5, kind="final",
                    temperature="warm", ceiling="fma", ceiling_fraction=fraction,
                ),
            )  # fmt: skip
            db.record_winner(
                WinnerRow(
                    trial_id=trial, target_id=ids[0], problem_id=ids[1], tokens=count,
                    load="uniform", median_ns=1e5 * count, ceiling_fraction=fraction,
                    is_default=True, created="2026-01-02T03:04:05+00:00",
                )
            )  # fmt: skip
    return winner
