"""Plan: what a tuning session is asked, and what it reports meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tuner.problem.workload import Workload
from tuner.search import strategies


@dataclass(frozen=True)
class Plan:
    """What a session does: it tunes `tokens` x `loads`, each pair a cell.

    `trials` are per cell on average, `time_s` is for the whole session. `temperature` of the weights:
    cold, warm, or auto (decode is cold, prefill warm). At most `keep` variants are shipped.
    `noise_floor` is the gain that counts, as a share; None: what the session's sentinel measures.
    `token_weights` and `load_weights` say how much a cell counts, by its token count and load, where
    that is not 1: the product is its weight. On the workloads `held_out` the choice is checked.
    `warm_starts` configurations of earlier winners are tried first.
    `sampler` names how the next variant is chosen: a row of ``tuner.search.strategies``. `template` pins one;
    empty: all that serve the layer are searched.

    Raises UsageError for a sampler that is not known.
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
    template: str = ""

    def __post_init__(self) -> None:
        strategies.named(self.sampler)

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


Report = Callable[[Progress], None]
