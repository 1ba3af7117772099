"""Search: which configuration to try next, and what is known of those that were tried.

Starts come first: what the caller enqueued, the default, the starts of the space file. Then a proposer
takes over (`strategies.STRATEGIES`). A configuration is valid, new, and not ruled out by an earlier failure
when it is suggested, so no trial is spent on what is known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from tuner.search import strategies
from tuner.space import neighbours
from tuner.space.space import Config, Monotone, Space


@dataclass(frozen=True)
class Suggestion:
    """A configuration to try, with a number of its own."""

    config: Config
    number: int


class Search:
    """Ask and tell over one space; objective: time of a candidate / time of the default.

    `trials` is how many are planned, if that is known. Raises UsageError for a sampler that is not known
    or cannot be had here.
    """

    def __init__(
        self, space: Space, seed: int, sampler: str = "auto", trials: int | None = None
    ) -> None:
        self.space = space
        self._proposer = strategies.named(sampler)(space, seed, trials)
        self._numbers = count()
        self._open: dict[int, Config] = {}
        self._known: dict[tuple[int, ...], float | None] = {}
        self._failed: list[tuple[Monotone, Config]] = []
        self._enqueued: deque[Config] = deque()
        starts = [space.default, *({**space.default, **start} for start in space.starts)]
        self._starts = deque(map(space.canonical, filter(space.holds, starts)))

    def ask(self) -> Suggestion | None:
        """The next configuration that is valid and new; None when none was found."""
        config = self._start() or self._proposer.propose(self._is_new)
        if config is None:
            return None
        self._known[self._key(config)] = None
        suggestion = Suggestion(config, next(self._numbers))
        self._open[suggestion.number] = config
        return suggestion

    def tell(self, suggestion: Suggestion, ratio: float | None, failure: str = "crash") -> None:
        """The outcome of a suggestion: its ratio to the default, or None with its kind of failure."""
        self._learn(self._open.pop(suggestion.number), ratio, failure)

    def remember(
        self, config: Mapping[str, int], ratio: float | None, failure: str = "crash"
    ) -> None:
        """A configuration that was tried earlier; one outside the space is left out."""
        if self.space.holds(config):
            self._learn(self.space.canonical(config), ratio, failure)

    def enqueue(self, config: Mapping[str, int]) -> None:
        """Asks for this configuration before others, if it is new: what won for a near workload.

        One of another space is brought to the nearest valid point of this one.
        """
        near = neighbours.snapped(self.space, config)
        if self.space.broken(near) is not None:
            near = (
                neighbours.nearest(self.space, near, lambda c: self.space.broken(c) is None) or near
            )
        self._enqueued.append(near)

    def _start(self) -> Config | None:
        for queue in (self._enqueued, self._starts):
            while queue:
                config = queue.popleft()
                if self._is_new(config):
                    return config
        return None

    def _learn(self, config: Config, ratio: float | None, failure: str) -> None:
        self._known[self._key(config)] = ratio
        self._proposer.tell(config, ratio, failure)
        if ratio is None:
            rules = [rule for rule in self.space.monotone if rule.failure == failure]
            self._failed += [(rule, config) for rule in rules]

    def _is_new(self, config: Config) -> bool:
        """Whether it is worth a trial: unknown, not as large as what failed, no restriction broken."""
        if self._key(config) in self._known:
            return False
        if any(rule.rules_out(failed, config) for rule, failed in self._failed):
            return False
        return self.space.broken(config) is None

    def _key(self, config: Mapping[str, int]) -> tuple[int, ...]:
        return neighbours.key(self.space, config)
