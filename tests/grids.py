"""Synthetic grids: answers by a formula, for tests alone. Nothing in them was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from tuner.space.space import Monotone, Restriction, Space
from tuner.store import t4
from tuner.store.records import MeasurementRow, TrialRow

SPACE = Space(
    template="synthetic",
    values={
        "rows": (2, 4, 6, 8, 10, 12),
        "vectors": (1, 2, 4),
        "unroll": (1, 2, 4, 8),
        "prefetch": (0, 16, 32, 64),
        "layout": (0, 1),
        "fixed": (7,),
    },
    default={"rows": 4, "vectors": 1, "unroll": 1, "prefetch": 0, "layout": 0, "fixed": 7},
    restrictions=(Restriction("rows * vectors <= 32", "the registers are full"),),
    facts={"registers": 32},
    starts=({"rows": 8, "layout": 1}, {"rows": 999}),
    monotone=(Monotone("build_timeout", ("rows", "unroll"), "the loop body grows"),),
)


def status(config: Mapping[str, int]) -> tuple[str, str]:
    """What becomes of a configuration: its status and message."""
    if config["rows"] * config["unroll"] > 80:
        return "timeout", "mojo build: timed out after 120 s; raise the time limit"
    if config["prefetch"] == 64 and config["vectors"] == 4:
        return "wrong", "case 3: row 2 differs"
    return "ok", ""


def ratio(config: Mapping[str, int]) -> float:
    """A valley with its floor at 10 rows, 2 vectors, unroll 4, prefetch 32, layout 1."""
    work = abs(config["rows"] * config["vectors"] - 20) / 20
    loop = abs(math.log2(config["unroll"] / 4)) / 3
    ahead = abs(config["prefetch"] - 32) / 32
    layout = 0.0 if config["layout"] else 0.25 + 0.1 * ahead
    return 0.6 * (1 + 0.4 * work**2 + 0.2 * loop**2 + 0.1 * ahead + layout + 0.1 * work * loop)


def rows(space: Space = SPACE) -> list[TrialRow]:
    """A trial of every valid point."""
    return [_row(config) for config in space.points()]


def _row(config: dict[str, int]) -> TrialRow:
    state, message = status(config)
    value = ratio(config)
    measured = MeasurementRow(
        median_ns=1e6 * value, low_ns=0.99e6 * value, high_ns=1.01e6 * value,
        samples=(1e6 * value, 1.001e6 * value), ratio=value, ratio_low=0.99 * value,
        ratio_high=1.01 * value, gflop_s=100 / value,
    )  # fmt: skip
    return TrialRow(
        target_id="", problem_id="", variant_id="", tokens=8, load="uniform", status=state,
        message=message, created="2026-01-02T03:04:05+00:00", config=config,
        measurements=(measured,) if state == "ok" else (),
    )  # fmt: skip


def write(path: Path, space: Space = SPACE) -> Path:
    """The grid as a T4 file that says what it is."""
    about = {"synthetic": "by the formula of tests/grids.py", "space": space.to_json()}
    t4.write(path, t4.document(rows(space), about))
    return path
