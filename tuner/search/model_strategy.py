"""The strategy `model`: the point of which a Gaussian process over the trials expects most."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np

from tuner.search.gaussian_process import Array, Surrogate, expected_improvement
from tuner.search.proposer import Proposer, Strategy
from tuner.space import neighbours
from tuner.space.neighbours import Test
from tuner.space.space import Config, Space

# The most that a time counts for: four times the best one's. How bad the bad ones are says nothing about the
# good ones. A failure has no time: whether a point fails is a model of its own.
MOST_LOSS = math.log(4.0)
# More trials than this make a fit slow, and tell little more: the best are kept.
MOST_POINTS = 256
# What more likely fails than not comes after all else; no gain is as large.
LAST = 1e3
# Spaces up to this size, before restrictions, are listed once; of larger ones candidates are drawn.
LISTED = 20_000
# Candidates in a space that is not listed: changes of the best points, mutations of them, others.
BEST = 3
MUTATIONS = 300
RANDOM = 200


class SurrogateModel:
    """The point of which a Gaussian process over all trials so far expects most.

    Candidates are all points of a small space; of a large one every change of one parameter of the best
    trials, mutations of them, and random points.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._free = neighbours.free(space)
        self._rng = random.Random(seed)
        self._times = Surrogate(len(self._free))
        self._failures = Surrogate(len(self._free))
        self._losses: dict[tuple[int, ...], tuple[Config, float]] = {}
        self._asked: dict[tuple[int, ...], Config] = {}
        self._all = list(space.points()) if space.size() <= LISTED else None

    def tell(self, config: Config, ratio: float | None, failure: str) -> None:
        key = neighbours.key(self._space, config)
        self._asked.pop(key, None)
        self._losses[key] = (config, math.inf if ratio is None else math.log(ratio))

    def propose(self, is_new: Test) -> Config | None:
        candidates = self._candidates(is_new)
        if not candidates:
            return None
        chosen = candidates[0]
        if self._losses and len(candidates) > 1:
            chosen = candidates[int(np.argmax(self._gain(candidates)))]
        self._asked[neighbours.key(self._space, chosen)] = chosen
        return chosen

    def _candidates(self, is_new: Test) -> list[Config]:
        """In random order: of those that promise as much, any may come."""
        found = list(filter(is_new, self._all if self._all is not None else self._near(is_new)))
        self._rng.shuffle(found)
        return found

    def _near(self, is_new: Test) -> list[Config]:
        ranked = sorted(self._losses.values(), key=lambda row: row[1])
        best = [config for config, _ in ranked[:BEST]]
        found = [change for config in best for change in neighbours.changes(self._space, config)]
        if best:
            parents = self._rng.choices(best, k=MUTATIONS)
            found += [neighbours.mutated(self._space, self._rng, parent) for parent in parents]
        drawn = (neighbours.drawn(self._space, self._rng, is_new) for _ in range(RANDOM))
        found += [config for config in drawn if config is not None]
        return list({neighbours.key(self._space, config): config for config in found}.values())

    def _gain(self, candidates: Sequence[Config]) -> Array:
        """What each candidate is expected to improve on the best, times the chance that it does not fail."""
        there = self._scaled(candidates)
        gain = np.ones(len(candidates))
        timed = [row for row in self._losses.values() if math.isfinite(row[1])]
        if timed:
            tried = self._fit(sorted(timed, key=lambda row: row[1])[:MOST_POINTS])
            best = float(self._times.predict(tried)[0].min())  # as modelled: no lucky time
            gain = expected_improvement(*self._times.predict(there), best)
        if len(timed) < len(self._losses):
            rows = list(self._losses.values())[-MOST_POINTS:]
            failed = np.array([float(math.isinf(loss)) for _, loss in rows])
            self._failures.fit(self._scaled([config for config, _ in rows]), failed)
            chance = np.clip(self._failures.predict(there)[0], 0.0, 1.0)
            gain = gain * (1 - chance) - np.where(chance > 0.5, LAST, 0.0)
        return gain

    def _fit(self, rows: Sequence[tuple[Config, float]]) -> Array:
        """Fits the model of times; returns the points [n, d] that it knows."""
        losses = np.array([loss for _, loss in rows])
        losses = np.minimum(losses, losses.min() + MOST_LOSS)
        tried = self._scaled([config for config, _ in rows])
        self._times.fit(tried, losses)
        if self._asked:  # what is being tried counts as if it came out as expected
            asked = self._scaled(list(self._asked.values()))
            expected, _ = self._times.predict(asked)
            tried, losses = np.concatenate([tried, asked]), np.concatenate([losses, expected])
            self._times.fit(tried, losses, lengths=False)
        return tried

    def _scaled(self, configs: Sequence[Config]) -> Array:
        """Configurations as points [n, d] of the unit cube: values are ordered and evenly spaced."""
        last = [len(values) - 1 for values in self._free.values()]
        rows = [list(neighbours.places(self._space, config).values()) for config in configs]
        return np.array(rows, dtype=np.float64) / last


def _model(space: Space, seed: int, trials: int | None) -> Proposer:
    return SurrogateModel(space, seed)


STRATEGIES: dict[str, Strategy] = {"model": _model}
