from __future__ import annotations

from collections import Counter

import pytest

from tuner.tune.schedule import GAIN_TRIALS, Share, deal


def dealt(shares: list[Share], count: int) -> Counter[int]:
    found: Counter[int] = Counter()

    def give(cell: int) -> bool:
        found[cell] += 1
        return True

    assert deal(shares, count, give) == count
    return found


def still(weight: float = 1.0) -> Share:
    """A cell that found nothing better than the default."""
    share = Share(weight)
    share.note(1.0, 0.0)
    return share


def test_equal_cells_take_turns() -> None:
    assert dealt([still(), still(), still()], 30) == {0: 10, 1: 10, 2: 10}


def test_weights_divide_the_trials() -> None:
    assert dealt([still(3), still()], 40) == {0: 30, 1: 10}


def test_a_cell_that_improves_is_asked_more_often() -> None:
    improving = still()
    improving.note(0.9, 0.0)
    found = dealt([improving, still()], 40)
    assert found[0] > 3 * found[1] > 0


def test_a_gain_is_forgotten_after_some_trials() -> None:
    share = still()
    for _ in range(GAIN_TRIALS):
        share.note(0.5, 0.0)
    assert share.gain > 0.6
    share.note(0.5, 0.0)
    assert share.gain == 0.0
    assert share.tickets == still().tickets


def test_a_cell_that_does_not_know_its_best_is_asked_more_often() -> None:
    unsure = still()
    unsure.note(1.0, 0.05)
    found = dealt([unsure, still()], 40)
    assert found[0] > 2 * found[1]


def test_trials_that_were_given_are_not_paid_back() -> None:
    first = still()
    first.note(0.5, 0.0)
    second = still()
    assert dealt([first, second], 20)[0] > 15
    for _ in range(GAIN_TRIALS):
        first.note(0.5, 0.0)
    assert dealt([first, second], 20)[0] == pytest.approx(10, abs=1)


def test_a_cell_with_nothing_left_is_passed_over() -> None:
    left = {0: 2, 1: 5}

    def give(cell: int) -> bool:
        left[cell] -= 1
        return left[cell] >= 0

    assert deal([still(), still()], 20, give) == 7
