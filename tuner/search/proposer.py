"""Proposer: what a search strategy has to do: propose a configuration, and be told what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from tuner.space.neighbours import Test
from tuner.space.space import Config, Space


class Proposer(Protocol):
    """Finds configurations, and is told what became of every trial, its own or not.

    What it proposes is what the search calls new: valid, not tried, and not ruled out by a failure.
    """

    def propose(self, is_new: Test) -> Config | None:
        """A configuration that is new; None when there is none, or none was found."""

    def tell(self, config: Config, ratio: float | None, failure: str) -> None:
        """The outcome of a trial: time / default's time, or None with its kind of failure."""


# A Proposer for a space, a seed, and the trials that are planned, if that is known.
Strategy: TypeAlias = Callable[[Space, int, int | None], Proposer]
