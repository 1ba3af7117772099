"""Moves: getting about in a space: neighbours, the nearest valid point, random points, orders.

Distances count steps: one step takes one parameter to the next of its values.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from tuner.space.space import Config, Space

Test = Callable[[Config], bool]

# Points to look at on the way to the nearest one that will do; beyond that it is not near.
MOST_LOOKED_AT = 5000
# Draws for one random point that will do.
MOST_DRAWS = 500


def free(space: Space) -> dict[str, tuple[int, ...]]:
    """The parameters that have a choice, with their values."""
    return {name: values for name, values in space.values.items() if len(values) > 1}


def key(space: Space, config: Mapping[str, int]) -> tuple[int, ...]:
    """The values of a configuration in the order of the space."""
    return tuple(config[name] for name in space.values)


def walk(space: Space, start: Config) -> Iterator[Config]:
    """All points, valid or not, by their distance from one of them, which comes first."""
    values = free(space)
    seen = {key(space, start)}
    queue = deque([start])
    while queue:
        point = queue.popleft()
        yield point
        for neighbour in _steps(values, point):
            if key(space, neighbour) not in seen:
                seen.add(key(space, neighbour))
                queue.append(neighbour)


def changes(space: Space, config: Config) -> Iterator[Config]:
    """Every configuration that differs in one parameter, valid or not."""
    for name, values in free(space).items():
        for value in values:
            if value != config[name]:
                yield {**config, name: value}


def snapped(space: Space, config: Mapping[str, int]) -> Config:
    """A configuration of another space brought into this one, restrictions not looked at.

    A parameter that it lacks gets the default, one that has no such value here the nearest.
    """
    return {
        name: min(values, key=lambda v: abs(v - wanted))
        for name, values in space.values.items()
        for wanted in [config.get(name, space.default[name])]
    }


def nearest(space: Space, config: Config, will_do: Test) -> Config | None:
    """The point of fewest steps away that will do; None where none is near."""
    return next(filter(will_do, islice(walk(space, config), MOST_LOOKED_AT)), None)


def _steps(values: Mapping[str, tuple[int, ...]], config: Config) -> Iterator[Config]:
    for name, options in values.items():
        at = options.index(config[name])
        for index in (at - 1, at + 1):
            if 0 <= index < len(options):
                yield {**config, name: options[index]}


def drawn(space: Space, rng: random.Random, will_do: Test) -> Config | None:
    """A random point that will do; None where draws find none."""
    for _ in range(MOST_DRAWS):
        config = {name: rng.choice(values) for name, values in space.values.items()}
        if will_do(config):
            return config
    return None


def mutated(space: Space, rng: random.Random, config: Config) -> Config:
    """A configuration with some two parameters drawn anew, valid or not."""
    values = free(space)
    chance = 2 / len(values)
    return config | {n: rng.choice(v) for n, v in values.items() if rng.random() < chance}
