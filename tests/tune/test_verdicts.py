from __future__ import annotations

import pytest

from tests.kernels import TINY, variant
from tuner.intervals import Median
from tuner.measure.bench import Timing
from tuner.measure.race import Race
from tuner.problem.workload import Workload
from tuner.tune.portfolio import CellRatios, best
from tuner.tune.verdicts import LEAST_FLOOR, entries, floor_of, joined


def timing(*kernels: float) -> Timing:
    """A race in which kernel i takes kernels[i] ns, give or take one percent."""
    noise = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0, 0.995, 1.005, 1.0)
    times = tuple(
        tuple(round(1e6 * mean * noise[(n + 3 * i) % 10]) for n in range(10))
        for i, mean in enumerate(kernels)
    )
    return Timing(Race(times), 1.0, 1.0, "warm")


VARIANTS = [
    variant(TINY, changes)
    for changes in ({}, {"chunks": 4, "unroll": 2, "tile_rows": 8}, {"chunks": 4})
]


def winner(*parts: Timing, floor: float = 0.03) -> int:
    """Which of VARIANTS a session for this cell alone would ship."""
    names = [v.id for v in VARIANTS]
    found = dict(zip(names, entries(parts, VARIANTS, floor), strict=True))
    return names.index(best(CellRatios(Workload(1), 1.0, names[0], floor, found)))


def test_the_surely_faster_one_wins() -> None:
    assert winner(*[timing(1.0, 0.8, 1.2)] * 2) == 1


def test_a_gain_within_the_noise_leaves_the_default() -> None:
    assert winner(*[timing(1.0, 0.98, 0.975)] * 2) == 0
    assert winner(*[timing(1.0, 0.9, 0.9)] * 2, floor=0.2) == 0


def test_a_gain_in_one_process_alone_leaves_the_default() -> None:
    assert winner(timing(1.0, 0.7, 1.2), timing(1.0, 1.05, 1.2)) == 0


def test_a_tie_goes_to_the_variant_nearer_to_the_default() -> None:
    assert winner(*[timing(1.0, 0.80, 0.801)] * 2) == 2


def test_a_clear_second_does_not_win_by_being_simpler() -> None:
    assert winner(*[timing(1.0, 0.80, 0.90)] * 2) == 1


def test_races_are_joined_with_their_pairs() -> None:
    race = joined([timing(1.0, 0.5), timing(1.0, 2.0)]).race
    assert len(race.times_ns[0]) == len(race.times_ns[1]) == 20
    assert race.times_ns[1][0] < race.times_ns[0][0] < race.times_ns[1][10]


def test_the_noise_floor_is_the_far_end_of_the_sentinels_interval() -> None:
    assert floor_of(Median(1.0, 0.999, 1.002)) == LEAST_FLOOR == 0.01
    assert floor_of(Median(1.01, 0.99, 1.04)) == pytest.approx(0.04)
    assert floor_of(Median(0.97, 0.95, 1.0)) == pytest.approx(1 / 0.95 - 1)
