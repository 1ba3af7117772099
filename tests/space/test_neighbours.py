from __future__ import annotations

import random

from tests.grids import SPACE
from tuner.space import neighbours


def test_a_walk_meets_every_point_once_by_its_distance() -> None:
    walked = list(neighbours.walk(SPACE, SPACE.default))
    keys = [neighbours.key(SPACE, config) for config in walked]
    assert len(set(keys)) == len(keys) == SPACE.size()
    free = neighbours.free(SPACE)
    steps = [
        sum(abs(v.index(c[n]) - v.index(SPACE.default[n])) for n, v in free.items()) for c in walked
    ]
    assert steps == sorted(steps)


def test_changes_differ_in_one_parameter() -> None:
    changed = list(neighbours.changes(SPACE, SPACE.default))
    assert len(changed) == sum(len(values) - 1 for values in SPACE.values.values())
    assert all(sum(c[n] != SPACE.default[n] for n in c) == 1 for c in changed)


def test_snapped_takes_the_nearest_value_and_the_default_of_what_is_lacking() -> None:
    config = neighbours.snapped(SPACE, {"rows": 100, "prefetch": 20, "other": 1})
    assert config == {**SPACE.default, "rows": 12, "prefetch": 16}


def test_the_nearest_point_that_will_do() -> None:
    full = {**SPACE.default, "rows": 12, "vectors": 4}
    near = neighbours.nearest(SPACE, full, lambda config: SPACE.broken(config) is None)
    assert near is not None
    assert near["rows"] * near["vectors"] <= 32
    assert near in ({**full, "vectors": 2}, {**full, "rows": 8})
    assert neighbours.nearest(SPACE, full, lambda config: False) is None


def test_random_points_will_do() -> None:
    rng = random.Random(0)
    found = [neighbours.drawn(SPACE, rng, lambda config: config["rows"] == 2) for _ in range(9)]
    assert all(config is not None and config["rows"] == 2 for config in found)
    assert neighbours.drawn(SPACE, rng, lambda config: False) is None
    assert neighbours.mutated(SPACE, rng, SPACE.default).keys() == SPACE.values.keys()
