"""What a tuning session is asked, what it says meanwhile and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tuner.workload import Workload

# How the next variant is chosen; see ``tuner.search``. ``auto`` lists a small space and models a large one.
SAMPLERS = ("auto", "model", "tpe", "gp", "random", "grid", "brute")


@dataclass(frozen=True)
class Plan:
    """What a session does: `trials` is per workload, `time_s` for the whole session.

    `temperature` of the weights: cold, warm, or auto (decode is cold, prefill warm). `sampler` is
    one of SAMPLERS.
    """

    tokens: tuple[int, ...]
    load: str = "uniform"
    trials: int | None = None
    time_s: float | None = None
    seed: int = 0
    temperature: str = "auto"
    sampler: str = "auto"


@dataclass(frozen=True)
class Progress:
    """Where a session stands; `best_ratio` is time of the incumbent / time of the default."""

    workload: Workload
    stage: str
    cell: int
    cells: int
    trials: int
    planned: int | None
    statuses: dict[str, int]
    best_ratio: float | None
    elapsed_s: float
    budget_s: float | None
    note: str


@dataclass(frozen=True)
class CellResult:
    """The outcome for one workload; `ratio` is the winner's time / the default's, paired."""

    workload: Workload
    default: str
    winner: str
    is_default: bool
    ratio: float
    ratio_low: float
    ratio_high: float
    median_ns: float
    default_median_ns: float
    gflop_s: float
    gb_s: float
    ceiling: str
    ceiling_fraction: float
    temperature: str
    statuses: dict[str, int]


Report = Callable[[Progress], None]
