"""Finals: what races of the finalists and the default in several processes say of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tuner.intervals import Median
from tuner.measure.bench import Timing
from tuner.measure.race import Race
from tuner.space.variant import Variant
from tuner.tune.portfolio import Entry

# Whatever the sentinel says: less than this is never told from noise.
LEAST_FLOOR = 0.01


def joined(parts: Sequence[Timing]) -> Timing:
    """All races as one, with the work of the first."""
    return dataclasses.replace(parts[0], race=as_one([part.race for part in parts]))


def as_one(races: Sequence[Race]) -> Race:
    """Races of the same kernels: their samples one after the other, still paired."""
    rows = zip(*(race.times_ns for race in races), strict=True)
    return Race(
        times_ns=tuple(tuple(t for row in of_one for t in row) for of_one in rows),
        probe_gb_s=tuple(probe for race in races for probe in race.probe_gb_s),
        probe_gflop_s=tuple(peak for race in races for peak in race.probe_gflop_s),
        foreign=max(race.foreign for race in races),
        redone=sum(race.redone for race in races),
    )


def floor_of(sentinel: Median) -> float:
    """The noise floor that the default raced against a copy of itself tells.

    The two do the same, so whatever their ratio may be away from 1 is noise: the far end of its
    interval, at least LEAST_FLOOR.
    """
    return max(LEAST_FLOOR, sentinel.high - 1, 1 / sentinel.low - 1)


def entries(parts: Sequence[Timing], variants: Sequence[Variant], floor: float) -> list[Entry]:
    """What races of some variants say; the first variant is the default."""
    race = joined(parts).race
    found = []
    for i, variant in enumerate(variants):
        ratio = race.ratio(i)
        proven = i > 0 and is_proven([part.race for part in parts], i, ratio.value, floor)
        found.append(
            Entry(ratio.value, ratio.low, ratio.high, proven, distance(variant, variants[0]))
        )
    return found


def is_proven(races: Sequence[Race], kernel: int, ratio: float, floor: float) -> bool:
    """Whether a kernel is surely faster than the default in every race, and by more than the floor overall.

    `ratio` is that of all races as one. Where threads and pages lie differs from process to process, and may
    favour one for as long as it lives.
    """
    sure = all(race.ratio(kernel).high < 1 for race in races)
    return sure and ratio <= 1 / (1 + floor)


def distance(variant: Variant, default: Variant) -> int:
    """How many parameters differ; between two templates all of them do."""
    if variant.template != default.template:
        return max(len(variant.values), len(default.values))
    return sum(a != b for a, b in zip(variant.values, default.values, strict=True))
