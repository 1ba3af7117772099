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
from tuner.report.history import Occasion, occasions
from tuner.space.variant import Changes, changes
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import TrialRow
from tuner.target import Target


class NothingThereError(DatabaseError):
    """There is neither a winner nor a trial of what was asked for."""


@dataclass(frozen=True)
class WorkloadWinner:
    """The winner of one workload beside the default that it was paired with.

    Attributes:
        speedup, speedup_low, speedup_high: the default's time over the winner's; 1 where it won.
        changes: in what it differs from the default; None where that one is not recorded.
        low_ns, high_ns: the interval of the median; None where no measurement is stored.
        default_ns: median of the default in the same race; None where it is not recorded.
        samples: how many calls the median is of.
        toolchain: the compiler's version; empty where it is not recorded.
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
    low_ns: float | None
    high_ns: float | None
    default_ns: float | None
    temperature: str
    gflop_s: float | None
    gb_s: float | None
    ceiling: str
    fraction: float | None
    samples: int
    toolchain: str
    created: str


@dataclass(frozen=True)
class Overview:
    """All there is of a problem on a target, and the whole story of one of its workloads.

    Attributes:
        cells: the winners, by load and tokens.
        waiting: workloads that have trials and no winner yet.
        ceilings: name -> GFLOP/s or GB/s; stored with the target, or brought by the winners.
        chosen: the workload that ``winner``, ``explanation``, ``trials`` and ``occasions`` are of.
        winner: None where its finals were not run.
        trials: oldest first; those of another compiler than the newest one's are left out.
        occasions: when its winner was measured, oldest first.
        peers: what other libraries took at this problem on this target, oldest first.
    """

    problem: Problem
    target: Target
    cells: tuple[WorkloadWinner, ...]
    waiting: tuple[Workload, ...]
    ceilings: dict[str, float]
    chosen: Workload
    winner: WorkloadWinner | None
    explanation: Explanation
    trials: tuple[TrialRow, ...]
    occasions: tuple[Occasion, ...]
    peers: tuple[PeerTimeRow, ...]

    def under(self, load: str) -> tuple[WorkloadWinner, ...]:
        """The cells of one load, by tokens."""
        return tuple(cell for cell in self.cells if cell.load == load)


def overview(
    db: Database, problem: Problem, target: Target, chosen: Workload | None = None
) -> Overview:
    """The overview, with the story of ``chosen``, or of the winner with the most tokens.

    Where nothing won yet, it is the story of the workload with the newest trial.

    Raises:
        NothingThereError: there is neither a winner nor a trial of this problem on this target, or none
            of ``chosen``.
    """
    keys = (problem.digest, target.digest)
    rows = db.best(*keys)
    tried = listings.tried(db, *keys)
    cells = tuple(_cell(db, row) for row in rows)
    workload = _chosen(problem, target, cells, tried, chosen)
    place = (workload.tokens, workload.load)
    won = {(cell.tokens, cell.load) for cell in cells}
    trials = db.trials(*keys, *place)
    return Overview(
        problem=problem,
        target=target,
        cells=cells,
        waiting=tuple(Workload(*at) for row in tried if (at := _place(row)) not in won),
        ceilings=_ceilings(db, target, rows),
        chosen=workload,
        winner=next((cell for cell in cells if (cell.tokens, cell.load) == place), None),
        explanation=explain(problem, workload, target, db),
        trials=_comparable(trials),
        occasions=occasions(
            trials, db.sessions(*keys), workload, {row["trial_id"]: row["ratio"] for row in rows}
        ),
        peers=tuple(db.peer_times(*keys)),
    )


def _place(row: Mapping[str, Any]) -> tuple[int, str]:
    return row["tokens"], row["load"]


def _chosen(
    problem: Problem,
    target: Target,
    cells: Sequence[WorkloadWinner],
    tried: Sequence[Mapping[str, Any]],
    wanted: Workload | None,
) -> Workload:
    if not tried:
        raise NothingThereError(
            f"{problem.name or problem.digest}: has no winner on {target.arch}; run `moetune tune`"
        )
    if wanted is None and cells:
        cell = max(cells, key=lambda cell: (cell.load == "uniform", cell.tokens))
        return Workload(cell.tokens, cell.load)
    if wanted is None:
        return Workload(*_place(max(tried, key=lambda row: row["newest"])))
    if (wanted.tokens, wanted.load) in map(_place, tried):
        return wanted
    raise NothingThereError(
        f"no winner and no trial at {wanted.tokens} tokens, load {wanted.load}; ask for another"
    )


def _comparable(trials: Sequence[TrialRow]) -> tuple[TrialRow, ...]:
    """Those of the compiler of the newest one."""
    newest = trials[-1].environment.get("toolchain") if trials else None
    return tuple(row for row in trials if row.environment.get("toolchain") == newest)


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
        low_ns=row["low_ns"],
        high_ns=row["high_ns"],
        default_ns=timed.median_ns if timed else None,
        temperature=row["temperature"] or "",
        gflop_s=row["gflop_s"],
        gb_s=row["gb_s"],
        ceiling=row["ceiling"] or "",
        fraction=row["ceiling_fraction"],
        samples=row["sample_count"] or 0,
        toolchain=row["environment"].get("toolchain", ""),
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
    return stored or brought or _derived(rows)


def _derived(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Bandwidths of winners that say only which share of them they reached."""
    return {
        row["ceiling"]: row["gb_s"] / row["ceiling_fraction"]
        for row in rows
        if row["ceiling"] in ("read", "copy") and row["gb_s"] and row["ceiling_fraction"]
    }
