"""Neighbours: getting about in a space: neighbours, the nearest valid point, random points, orders.

Distances count steps: one step takes one parameter to the next of its values.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """The values of a configuration in the order of the space; one key for all that are one point."""
    config = space.canonical(config)
    return tuple(config[name] for name in space.values)


def places(space: Space, config: Mapping[str, int]) -> dict[str, int]:
    """Of each parameter that has a choice, which of its values it is, from 0.

    What is idle is at the nearest value: a narrowed space may lack the one at which it is held.
    """
    config = space.canonical(config)
    return {
        name: options.index(_closest(options, config[name]))
        for name, options in free(space).items()
    }


def _closest(options: Sequence[int], wanted: int) -> int:
    return wanted if wanted in options else min(options, key=lambda value: abs(value - wanted))


def walk(space: Space, start: Config) -> Iterator[Config]:
    """All points, valid or not, by their distance from one of them, which comes first."""
    seen = {key(space, start)}
    queue = deque([start])
    while queue:
        point = queue.popleft()
        yield point
        for neighbour in _steps(space, point):
            if key(space, neighbour) not in seen:
                seen.add(key(space, neighbour))
                queue.append(neighbour)


def changes(space: Space, config: Config) -> Iterator[Config]:
    """Every point that differs in one parameter and what follows from it, valid or not."""
    own = key(space, config)
    for name, values in free(space).items():
        for value in values:
            if value != config[name]:
                changed = _brought_in(space, {**config, name: value})
                if not space.idle or key(space, changed) != own:
                    yield changed


def snapped(space: Space, config: Mapping[str, int]) -> Config:
    """A configuration of another space brought into this one, restrictions not looked at.

    A parameter that it lacks gets the default, one that has no such value here the nearest.
    """
    return space.canonical(
        {
            name: _closest(values, config.get(name, space.default[name]))
            for name, values in space.values.items()
        }
    )


def _brought_in(space: Space, config: Config) -> Config:
    """A changed configuration as a point: what was idle before may be at a value that is none to choose."""
    return snapped(space, config) if space.idle else config


def nearest(space: Space, config: Config, will_do: Test) -> Config | None:
    """The point of fewest steps away that will do; None where none is near."""
    return next(filter(will_do, islice(walk(space, config), MOST_LOOKED_AT)), None)


def _steps(space: Space, config: Config) -> Iterator[Config]:
    values = free(space)
    for name, at in places(space, config).items():
        for index in (at - 1, at + 1):
            if 0 <= index < len(values[name]):
                yield _brought_in(space, {**config, name: values[name][index]})


def drawn(space: Space, rng: random.Random, will_do: Test) -> Config | None:
    """A random point that will do; None where draws find none."""
    for _ in range(MOST_DRAWS):
        config = space.canonical({n: rng.choice(values) for n, values in space.values.items()})
        if will_do(config):
            return config
    return None


def mutated(space: Space, rng: random.Random, config: Config) -> Config:
    """A configuration with some two parameters drawn anew, valid or not."""
    values = free(space)
    chance = 2 / len(values)
    drawn = {n: rng.choice(v) for n, v in values.items() if rng.random() < chance}
    return _brought_in(space, config | drawn)
