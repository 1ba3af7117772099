from __future__ import annotations

import numpy as np

from tuner.intervals import median


def test_few_samples_give_their_range() -> None:
    found = median([3.0, 1.0, 2.0])
    assert (found.value, found.low, found.high) == (2.0, 1.0, 3.0)


def test_ten_samples_leave_one_out_on_each_side() -> None:
    # Conover, table A3: P(Binomial(10, 1/2) <= 1) = 0.0107, <= 2 is 0.0547 > 0.025
    found = median(list(range(10)))
    assert (found.low, found.high) == (1.0, 8.0)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        found = median(rng.exponential(size=25))
        covered += found.low <= np.log(2.0) <= found.high
    assert 0.94 <= covered / 2000 <= 0.99


def test_thousands_of_samples() -> None:
    found = median(np.linspace(0.0, 1.0, 3001))
    assert 0.48 < found.low < 0.5 < found.high < 0.52
