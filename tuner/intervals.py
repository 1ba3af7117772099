"""Medians with intervals that assume no distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Median:
    """A median with its interval of CONFIDENCE."""

    value: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half the interval, relative to the median."""
        return (self.high - self.low) / 2 / self.value


def median(samples: Sequence[float]) -> Median:
    """Median and its interval from order statistics: the sign test's binomial bounds.

    Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2. With fewer than six samples the
    interval is their whole range.
    """
    ordered = np.sort(np.asarray(samples, float))
    rank = _rank(len(ordered))
    return Median(float(np.median(ordered)), float(ordered[rank]), float(ordered[-1 - rank]))


def _rank(count: int) -> int:
    """The largest r with P(Binomial(count, 1/2) <= r) within the lower tail; at least 0."""
    share = round(2 / (1 - CONFIDENCE))  # the lower tail is 1 / share of all 2^count outcomes
    term, total = 1, 1  # binomial(count, r) and their sum, exactly
    rank = 0
    while rank + 1 < count:
        term = term * (count - rank) // (rank + 1)
        total += term
        if total * share > 2**count:
            break
        rank += 1
    return rank
