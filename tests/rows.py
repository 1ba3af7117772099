"""Rows for the tests of database, exchange and select: small, complete, and made in one line."""

from __future__ import annotations

from typing import Any

from tuner.problem import Problem
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, WinnerRow
from tuner.target import Target

PROBLEM = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2, name="small")
FEATURES = ("avx", "avx2", "fma", "sse2")
TARGET = Target(
    vendor="amd",
    arch="znver3",
    features=FEATURES,
    cores=4,
    l1d_bytes=32 << 10,
    l2_bytes=512 << 10,
    l3_bytes=32 << 20,
    name="Test CPU",
)
COMPILER = "Mojo 1.0"
CREATED = "2026-01-02T03:04:05+00:00"


def add_trial(
    db: Database,
    tokens: int = 128,
    load: str = "uniform",
    *,
    status: str = "ok",
    variant: str = "k_a8",
    pack: str = "v8_p2_o0",
    problem: Problem = PROBLEM,
    target: Target = TARGET,
    compiler: str = COMPILER,
    **more: Any,
) -> TrialRow:
    """Record a trial, with a measurement if it is ok; return the row as read back."""
    row = TrialRow(
        target_id=db.add_target(target),
        problem_id=db.add_problem(problem),
        variant_id=db.add_variant(f"id-{variant}-{pack}", "k", variant, {"a": 8}, pack),
        tokens=tokens,
        load=load,
        status=status,
        **{"environment": {"toolchain": compiler}, "created": CREATED, **more},
    )
    measured = MeasurementRow(
        median_ns=1000.5, low_ns=990, high_ns=1010, samples=(1000.0, 1001.0), gflop_s=12.25
    )
    return db.trial(db.record_trial(row, measured if status == "ok" else None))


def winner_of(trial: TrialRow, **more: Any) -> WinnerRow:
    """The row that makes a trial the winner of its own workload."""
    ratio = more.get("ratio", 0.8)
    fields: dict[str, Any] = {
        "trial_id": trial.id,
        "target_id": trial.target_id,
        "problem_id": trial.problem_id,
        "tokens": trial.tokens,
        "load": trial.load,
        "median_ns": 900.25,
        "ratio": ratio,
        "ratio_low": ratio,
        "ratio_high": max(ratio, 1.0),
        "created": CREATED,
    }
    return WinnerRow(**{**fields, **more})


def add_winner(db: Database, tokens: int = 128, load: str = "uniform", **more: Any) -> TrialRow:
    """Record a trial that was ok and make it the winner; return the trial."""
    trial = add_trial(db, tokens, load, **more)
    db.record_winner(winner_of(trial))
    return trial
