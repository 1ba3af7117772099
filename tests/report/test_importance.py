"""Importances: who decides is named first, and too few trials are said to be too few."""

from __future__ import annotations

import itertools
import random

import pytest

from tuner.report.importance import LEAST_TRIALS, importances


def grid(seed: int, count: int) -> list[dict[str, int]]:
    points = itertools.product((4, 8, 16), (1, 2, 4, 8), (0, 1), (5,))
    configs = [dict(zip("abcd", point, strict=True)) for point in points]
    random.Random(seed).shuffle(configs)
    return configs[:count]


@pytest.mark.parametrize("seed", range(5))
def test_who_decides_comes_first(seed: int) -> None:
    """b decides, a does a little, c nothing; d never changes."""
    found = importances([(c, c["b"] + 0.02 * c["a"]) for c in grid(seed, 24)])
    assert next(iter(found.values)) == "b"
    assert found.values["b"] > 0.8
    assert set(found.values) == {"a", "b", "c"}
    assert sum(found.values.values()) == pytest.approx(1.0)


def test_order_of_the_ratios_alone_matters_not_their_unit() -> None:
    ratios = [(c, 0.5 + 0.1 * c["b"]) for c in grid(0, 24)]
    scaled = [(c, 3 * ratio) for c, ratio in ratios]
    assert importances(ratios) == importances(scaled)


def test_the_best_are_five_at_least() -> None:
    samples = [(c, float(c["b"])) for c in grid(0, 24)]
    assert importances(samples).best_share == pytest.approx(5 / 24)
    assert importances(samples * 5).best_share == pytest.approx(0.1)


def test_too_few_trials_are_said_to_be_too_few() -> None:
    samples = [(c, float(c["b"])) for c in grid(0, 24)]
    few, enough = importances(samples[: LEAST_TRIALS - 1]), importances(samples[:LEAST_TRIALS])
    assert (few.trials, few.too_few, few.values) == (LEAST_TRIALS - 1, True, {})
    assert not enough.too_few
    assert enough.values
    assert importances([]).too_few


def test_a_parameter_of_one_value_has_none() -> None:
    found = importances([({"d": 5}, 1.0)] * LEAST_TRIALS)
    assert (found.too_few, found.values) == (False, {})


def test_nothing_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    importances([(c, float(c["b"])) for c in grid(0, 24)])
    assert capfd.readouterr() == ("", "")
