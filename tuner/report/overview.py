"""Overview: one problem on one target, as a page or a report tells it. Read from the database alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import DatabaseError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report.explain import Explanation, explain
from tuner.space.variant import Changes, changes
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target


@dataclass(frozen=True)
class WorkloadWinner:
    """The winner of one workload beside the default that it was paired with.

    Attributes:
        speedup, speedup_low, speedup_high: the default's time over the winner's; 1 where it won.
        changes: in what it differs from the default; None where that one is not recorded.
        default_ns: median of the default in the same race; None where it is not recorded.
    """

    tokens: int
    load: str
    variant: str
    is_default: bool
    changes: Changes | None
    speedup: float
    speedup_low: float
    speedup_high: float
    median_ns: float
    default_ns: float | None
    temperature: str
    gflop_s: float | None
    gb_s: float | None
    ceiling: str
    fraction: float | None
    created: str


@dataclass(frozen=True)
class Overview:
    """All there is of a problem on a target, and the whole story of one of its workloads.

    Attributes:
        ceilings: name -> GFLOP/s or GB/s; stored with the target, or brought by the winners.
        chosen: the workload that ``explanation`` and ``trials`` are of.
    """

    problem: Problem
    target: Target
    cells: tuple[WorkloadWinner, ...]
    ceilings: dict[str, float]
    chosen: WorkloadWinner
    explanation: Explanation
    trials: tuple[TrialRow, ...]

    def under(self, load: str) -> tuple[WorkloadWinner, ...]:
        """The cells of one load, by tokens."""
        return tuple(cell for cell in self.cells if cell.load == load)


def overview(
    db: Database, problem: Problem, target: Target, chosen: Workload | None = None
) -> Overview:
    """The overview, with the story of ``chosen``, or of the workload with the most tokens.

    Raises:
        DatabaseError: there is no winner of this problem on this target, or none of ``chosen``.
    """
    rows = db.best(problem.digest, target.digest)
    if not rows:
        raise DatabaseError(
            f"{problem.name or problem.digest}: has no winner on {target.arch}; run `moetune tune`"
        )
    cells = tuple(_cell(db, row) for row in rows)
    cell = _chosen(cells, chosen)
    workload = Workload(cell.tokens, cell.load)
    return Overview(
        problem=problem,
        target=target,
        cells=cells,
        ceilings=_ceilings(db, target, rows),
        chosen=cell,
        explanation=explain(problem, workload, target, db),
        trials=tuple(db.trials(problem.digest, target.digest, cell.tokens, cell.load)),
    )


def _chosen(cells: Sequence[WorkloadWinner], wanted: Workload | None) -> WorkloadWinner:
    if wanted is None:
        return max(cells, key=lambda cell: (cell.load == "uniform", cell.tokens))
    for cell in cells:
        if (cell.tokens, cell.load) == (wanted.tokens, wanted.load):
            return cell
    raise DatabaseError(f"no winner at {wanted.tokens} tokens, load {wanted.load}; ask for another")


def _cell(db: Database, row: Mapping[str, Any]) -> WorkloadWinner:
    default = row["default_trial_id"]
    paired = db.trial(default) if default is not None else None
    timed = paired.final if paired else None
    return WorkloadWinner(
        tokens=row["tokens"],
        load=row["load"],
        variant=row["variant"],
        is_default=row["is_default"],
        changes=changes(paired.config, row["config"]) if paired else None,
        speedup=inverse(row["ratio"]),
        speedup_low=inverse(row["ratio_high"]),
        speedup_high=inverse(row["ratio_low"]),
        median_ns=row["median_ns"],
        default_ns=timed.median_ns if timed else None,
        temperature=row["temperature"] or "",
        gflop_s=row["gflop_s"],
        gb_s=row["gb_s"],
        ceiling=row["ceiling"] or "",
        fraction=row["ceiling_fraction"],
        created=row["created"],
    )


def inverse(ratio: float) -> float:
    """A ratio of times as one of speeds."""
    return 1 / ratio if ratio else math.inf


def _ceilings(db: Database, target: Target, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    stored = {name: limit.value for name, limit in db.ceilings(target.digest).items()}
    brought = {
        name.removesuffix("_limit"): float(value)
        for row in rows
        for name, value in row["environment"].items()
        if name.endswith("_limit")
    }
    return stored or brought
