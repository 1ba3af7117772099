"""Points: how many valid configurations a space has.

Restrictions tie only some parameters together, so the space is a product of groups that can be counted
one by one: exactly while a group is small, else by drawing from it. A space of several branches is their sum.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from tuner.intervals import CONFIDENCE
from tuner.space.expression import evaluate, names_in
from tuner.space.space import Config, Restriction, Space

# Combinations of one group that are looked at one by one: about a second's work.
MOST_COUNTED = 50_000
DRAWN = 5_000


@dataclass(frozen=True)
class Count:
    """How many there are, with an interval of CONFIDENCE; both ends are the value when it is exact."""

    value: float
    low: float
    high: float

    @property
    def exact(self) -> bool:
        return self.low == self.high


@dataclass(frozen=True)
class _Group:
    """Parameters that restrictions tie together, directly or through others."""

    names: tuple[str, ...]
    restrictions: tuple[Restriction, ...]


def count(space: Space, most_counted: int = MOST_COUNTED, seed: int = 0) -> Count:
    """The valid points of a space; no two of them are the same configuration."""
    counts = [_count_branch(branch, most_counted, seed) for branch in space.branches()]
    value, low, high = (sum(parts) for parts in zip(*counts, strict=True))
    return Count(value, low, high)


def summed(counts: Sequence[Count]) -> Count:
    """The points of several spaces."""
    parts = [(count.value, count.low, count.high) for count in counts]
    value, low, high = (sum(column) for column in zip(*parts, strict=True))
    return Count(value, low, high)


def _count_branch(space: Space, most_counted: int, seed: int) -> tuple[float, float, float]:
    """The value and the ends of its interval."""
    if not all(evaluate(rule, space.facts) for rule in _without_parameters(space)):
        return 0, 0, 0
    counts = [_count_group(space, group, most_counted, seed) for group in _groups(space)]
    value, low, high = (
        math.prod(parts) for parts in zip(*((c.value, c.low, c.high) for c in counts), strict=True)
    )
    return value, low, high


def _without_parameters(space: Space) -> list[str]:
    """Rules that read facts alone: they hold for all points or for none."""
    return [r.rule for r in space.restrictions if not names_in(r.rule) & space.values.keys()]


def _groups(space: Space) -> list[_Group]:
    """The parameters, split so that every restriction reads those of one group alone."""
    sets = [{name} for name in space.values]
    for restriction in space.restrictions:
        read = names_in(restriction.rule) & space.values.keys()
        touched = [group for group in sets if group & read]
        if touched:
            sets = [group for group in sets if not group & read] + [set().union(*touched)]
    return [
        _Group(
            tuple(name for name in space.values if name in group),
            tuple(r for r in space.restrictions if names_in(r.rule) & group),
        )
        for group in sets
    ]


def _count_group(space: Space, group: _Group, most_counted: int, seed: int) -> Count:
    values = [space.values[name] for name in group.names]
    size = math.prod(map(len, values))
    if not group.restrictions:
        return Count(size, size, size)
    if size <= most_counted:
        valid = sum(_holds(space, group, point) for point in itertools.product(*values))
        return Count(valid, valid, valid)
    drawn = _draw(values, random.Random(seed))
    hits = sum(_holds(space, group, point) for point in itertools.islice(drawn, DRAWN))
    low, high = _wilson(hits, DRAWN)
    return Count(size * hits / DRAWN, size * low, size * high)


def _draw(values: Sequence[Sequence[int]], rng: random.Random) -> Iterator[tuple[int, ...]]:
    while True:
        yield tuple(rng.choice(options) for options in values)


def _holds(space: Space, group: _Group, point: Sequence[int]) -> bool:
    config: Config = dict(zip(group.names, point, strict=True))
    return all(evaluate(r.rule, {**space.facts, **config}) for r in group.restrictions)


def _wilson(hits: int, drawn: int) -> tuple[float, float]:
    """Interval of a share from so many hits. Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, scale = hits / drawn, 1 + z * z / drawn
    centre = (share + z * z / (2 * drawn)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / drawn + z * z / (4 * drawn * drawn))
    return max(0.0, centre - half), min(1.0, centre + half)
