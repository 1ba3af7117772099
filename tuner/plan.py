"""What a tuning session is asked, what it says meanwhile and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tuner.foreign import FOREIGN_LIMIT
from tuner.keep import Rule
from tuner.workload import Workload

# How the next variant is chosen; see ``tuner.search``. ``auto`` lists a small space and models a large one.
SAMPLERS = ("auto", "model", "tpe", "gp", "random", "grid", "brute")


@dataclass(frozen=True)
class Plan:
    """What a session does: it tunes `tokens` x `loads`, each pair a cell.

    `trials` are per cell on average, `time_s` is for the whole session. `temperature` of the weights:
    cold, warm, or auto (decode is cold, prefill warm). At most `keep` variants are shipped.
    `noise_floor` is the gain that counts, as a share; None: what the session's sentinel measures.
    `token_weights` and `load_weights` say how much a cell counts, by its token count and load, where
    that is not 1: the product is its weight. On the workloads `held_out` the choice is checked.
    `warm_starts` configurations of earlier winners are tried first.
    `sampler` is one of SAMPLERS.
    """

    tokens: tuple[int, ...]
    loads: tuple[str, ...] = ("uniform",)
    trials: int | None = None
    time_s: float | None = None
    seed: int = 0
    temperature: str = "auto"
    keep: int = 4
    noise_floor: float | None = None
    token_weights: Mapping[int, float] = field(default_factory=dict)
    load_weights: Mapping[str, float] = field(default_factory=dict)
    held_out: tuple[Workload, ...] = ()
    warm_starts: int = 6
    sampler: str = "auto"

    def cells(self) -> list[tuple[Workload, float]]:
        """The workloads to tune, with their weights."""
        return [
            (
                Workload(tokens, load),
                self.token_weights.get(tokens, 1.0) * self.load_weights.get(load, 1.0),
            )
            for tokens in self.tokens
            for load in self.loads
        ]


@dataclass(frozen=True)
class Progress:
    """Where a session stands: trials of all cells, of `planned`; `best_ratio` is time of the incumbent /
    time of the default in the cell of `workload`.

    `per_minute` are the variants that went from compiler to verdict in a minute of this session.
    """

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
    per_minute: float | None = None


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


Report = Callable[[Progress], None]
