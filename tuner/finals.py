"""Finals: who wins, from a race of the finalists and the default."""

from __future__ import annotations

from tuner.bench_state import Timing
from tuner.variant import Variant

# A gain below this is not told from noise: the default stays.
NOISE_FLOOR = 0.03


def choose_winner(timing: Timing, variants: list[Variant]) -> int:
    """Who wins the finals: 0, the default, unless another is surely faster by more than NOISE_FLOOR.

    Of those that can't be told from the fastest, the one that differs least from the default.
    """
    ratios = [timing.race.ratio(i) for i in range(len(variants))]
    better = [
        i for i, r in enumerate(ratios) if i > 0 and r.high < 1 and r.value <= 1 - NOISE_FLOOR
    ]
    if not better:
        return 0
    fastest = min(better, key=lambda i: ratios[i].value)
    ties = [i for i in better if timing.race.ratio(i, fastest).low <= 1]
    return min(ties, key=lambda i: (_distance(variants[i], variants[0]), ratios[i].value))


def _distance(variant: Variant, default: Variant) -> int:
    """How many parameters differ."""
    return sum(a != b for a, b in zip(variant.values, default.values, strict=True))
