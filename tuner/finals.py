"""Finals: who wins, from races of the finalists and the default in several processes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tuner.bench_state import Timing
from tuner.benchmark import Race
from tuner.variant import Variant

# A gain below this is not told from noise: the default stays.
NOISE_FLOOR = 0.03


def joined(parts: Sequence[Timing]) -> Timing:
    """All races as one: their samples one after the other, still paired."""
    races = [part.race for part in parts]
    rows = zip(*(race.times_ns for race in races), strict=True)
    race = Race(
        times_ns=tuple(tuple(t for row in of_one for t in row) for of_one in rows),
        probe_gb_s=tuple(probe for race in races for probe in race.probe_gb_s),
        probe_gflop_s=tuple(peak for race in races for peak in race.probe_gflop_s),
        foreign=max(race.foreign for race in races),
        redone=sum(race.redone for race in races),
    )
    return dataclasses.replace(parts[0], race=race)


def choose_winner(parts: Sequence[Timing], variants: list[Variant]) -> int:
    """Who wins: 0, the default, unless another is surely faster, in every race and by NOISE_FLOOR overall.

    Of those that can't be told from the fastest, the one that differs least from the default.
    """
    race = joined(parts).race
    better = [
        i
        for i in range(1, len(variants))
        if race.ratio(i).value <= 1 - NOISE_FLOOR
        and all(part.race.ratio(i).high < 1 for part in parts)
    ]
    if not better:
        return 0
    fastest = min(better, key=lambda i: race.ratio(i).value)
    ties = [i for i in better if race.ratio(i, fastest).low <= 1]
    return min(ties, key=lambda i: (_distance(variants[i], variants[0]), race.ratio(i).value))


def _distance(variant: Variant, default: Variant) -> int:
    """How many parameters differ."""
    return sum(a != b for a, b in zip(variant.values, default.values, strict=True))
