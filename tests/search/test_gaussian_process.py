"""The Gaussian process: what it has seen, what it has not, and which parameters matter."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.search.gaussian_process import Surrogate, expected_improvement


def points(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(count, dimensions))


def test_it_is_sure_of_what_it_has_seen_and_unsure_far_away() -> None:
    seen = points(20, 2) / 2
    values = np.sin(4 * seen[:, 0]) + seen[:, 1]
    model = Surrogate(2)
    model.fit(seen, values)
    mean, deviation = model.predict(np.concatenate([seen, [[1.0, 1.0]]]))
    assert np.abs(mean[:-1] - values).max() < 0.05
    assert deviation[:-1].max() < deviation[-1] / 2


def test_it_predicts_a_smooth_function() -> None:
    seen, unseen = points(60, 3), points(50, 3, seed=1)

    def function(x: np.ndarray) -> np.ndarray:
        return np.exp(x[:, 0]) + x[:, 1] * x[:, 2]

    model = Surrogate(3)
    model.fit(seen, function(seen))
    assert np.abs(model.predict(unseen)[0] - function(unseen)).max() < 0.1


def test_a_parameter_that_does_nothing_gets_a_great_length() -> None:
    seen = points(40, 2)
    model = Surrogate(2)
    model.fit(seen, np.sin(6 * seen[:, 0]))
    assert model._lengths[1] > 2 * model._lengths[0]


def test_values_all_alike_and_a_single_one() -> None:
    for count in (1, 5):
        model = Surrogate(2)
        model.fit(points(count, 2), np.full(count, 3.0))
        mean, deviation = model.predict(points(4, 2, seed=1))
        assert mean == pytest.approx([3.0] * 4)
        assert np.isfinite(deviation).all()


def test_points_that_lie_close_together_do_not_move_what_is_expected_far_away() -> None:
    """A search gathers where it is good; elsewhere it must not come to expect good."""
    spread = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    gathered = np.array([0.5, 0.5]) + (points(30, 2) - 0.5) / 50
    seen = np.concatenate([spread, gathered])
    model = Surrogate(2)
    model.fit(seen, np.concatenate([[1.0, 1.0, 1.0], np.zeros(31)]))
    assert model.predict(np.array([[1.0, 1.0]]))[0] > 0.5


def test_expected_improvement_is_the_mean_of_what_lies_below() -> None:
    drawn = np.random.default_rng(0).normal(1.2, 0.5, 200_000)
    by_chance = np.maximum(1.0 - drawn, 0).mean()
    (formula,) = expected_improvement(np.array([1.2]), np.array([0.5]), 1.0)
    assert formula == pytest.approx(by_chance, rel=0.02)
