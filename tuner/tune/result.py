"""Result: what a tuning session answers, cell by cell and in all."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.host.interference import FOREIGN_LIMIT
from tuner.problem.workload import Workload
from tuner.tune.portfolio import Rule


@dataclass(frozen=True)
class CellResult:
    """The outcome for one workload: `winner` is the kept variant that serves it.

    `ratio` is its time / the default's, paired; `regret` its time / that of `best`, the fastest for
    this cell alone. Ratios closer than `noise_floor` (a share) are a tie. `foreign` is the share of the
    machine that other processes took while this was decided.
    """

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
    best: str
    regret: float = 1.0
    noise_floor: float = 0.01
    weight: float = 1.0
    foreign: float = 0.0

    @property
    def loaded(self) -> bool:
        """Whether other processes took so much that nobody can tell which variant is the fastest."""
        return self.foreign > FOREIGN_LIMIT


@dataclass(frozen=True)
class HeldOut:
    """A workload that was not tuned: what would run there, how it matched, and what it loses.

    `ratio` is its time / the default's, `regret` its time / that of `best`, the fastest finalist
    there, with the interval of both in one race.
    """

    workload: Workload
    winner: str
    match: str
    best: str
    ratio: float
    regret: float
    regret_low: float
    regret_high: float


@dataclass(frozen=True)
class Pace:
    """Where the time of a search went: s of waiting for builds, of verifying and of racing, of all.

    `judged` trials got a verdict, among them `compiled` variants that no cache had.
    """

    judged: int
    compiled: int
    build_s: float
    verify_s: float
    race_s: float
    search_s: float

    @property
    def per_minute(self) -> float:
        """Variants from compiler to verdict in a minute; those from the cache don't count."""
        return 60 * self.compiled / self.search_s if self.search_s else 0.0


@dataclass(frozen=True)
class TuneResult:
    """The outcome of a session: each cell's, the kept variants by name, and the thresholds by which they
    serve (variants by name); `mean_regret` is the cells' weighted geometric mean."""

    session: str
    cells: tuple[CellResult, ...]
    kept: tuple[str, ...]
    rules: tuple[Rule, ...]
    mean_regret: float
    held_out: tuple[HeldOut, ...]
    pace: Pace
