"""The strategies `grid` and `brute`: every valid point, in an order that no outcome changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tuner.search.proposer import Proposer, Strategy
from tuner.space import neighbours
from tuner.space.neighbours import Test
from tuner.space.space import Config, Space


class Enumeration:
    """Every valid point, in a given order."""

    def __init__(self, order: Iterable[Config]) -> None:
        self._rest: Iterator[Config] = iter(order)

    def propose(self, is_new: Test) -> Config | None:
        return next((config for config in self._rest if is_new(config)), None)

    def tell(self, config: Config, ratio: float | None, failure: str) -> None:
        """The order does not depend on outcomes."""


def brute(space: Space, seed: int, trials: int | None) -> Proposer:
    """Every point, the default's neighbours first."""
    return Enumeration(neighbours.walk(space, space.default))


def _grid(space: Space, seed: int, trials: int | None) -> Proposer:
    return Enumeration(space.points())


STRATEGIES: dict[str, Strategy] = {"grid": _grid, "brute": brute}
