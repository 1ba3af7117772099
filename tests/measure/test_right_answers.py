"""What is asked of a kernel and how far it may be off: odd shapes pass, planted faults do not."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.kernels import TINY, kernel
from tuner.measure import extremes, reference, right_answers, verify
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.dtypes import DTYPES
from tuner.problem.weights import Weights

# Shapes whose sums are short, deep, or cancel out.
ODD = {
    "one wide": TINY.replace(hidden=1, expert_dim=2999),
    "one deep": TINY.replace(hidden=2999, expert_dim=1),
    "one": TINY.replace(hidden=1, expert_dim=1),
    "odd": TINY.replace(hidden=3, expert_dim=701, num_experts=3),
    "relu": TINY.replace(hidden=1, expert_dim=997, activation="relu"),
}
SEEDS = (1, 2, 3)


def expectations(problem: Problem, seed: int) -> tuple[right_answers.Expected, ...]:
    weights = Weights.random(problem, seed).check(problem)
    return right_answers.Answers(problem, weights).of(right_answers.cases(problem, 20, 12, seed))


@pytest.mark.compiler
@pytest.mark.parametrize("name", ODD)
def test_right_kernels_of_odd_shapes_are_called_right(name: str) -> None:
    problem = ODD[name]
    layer = kernel(problem)
    for seed in SEEDS:
        packed = layer.pack(Weights.random(problem, seed).check(problem))
        assert verify.verify(layer, packed, expectations(problem, seed)).message == ""


def rounded(problem: Problem, weights: Weights, expected: right_answers.Expected) -> Any:
    """The layer on the checked rows with float32 products and sums, one after the other."""
    x = expected.x[expected.rows].astype(np.float32)
    y = np.zeros((len(x), problem.hidden), np.float32)
    for row, token in enumerate(expected.rows):
        for expert, weight in zip(expected.indices[token], expected.weights[token], strict=True):
            up = _product(weights.up[expert], x[row])
            if problem.gated:
                gate = _product(weights.gate[expert], x[row])
                acted = up * gate / (1 + np.exp(-gate))
            else:
                acted = np.maximum(up, 0)
            y[row] += np.float32(weight) * _product(weights.down[expert], acted)
    return y


def _product(matrix: Any, vector: Any) -> Any:
    return np.cumsum(matrix * vector, axis=1, dtype=np.float32)[:, -1]


def off(expected: right_answers.Expected, y: Any) -> bool:
    return bool((np.linalg.norm(y - expected.y, axis=1) > expected.bound).any())


# What a kernel may get wrong in one place -> the weights that it computes with.
FAULTS = {
    "a product of down is left out": lambda w: _zeroed(w, "down", (slice(None), slice(None), -1)),
    "a product of up is left out": lambda w: _zeroed(w, "up", (slice(None), -1, slice(None))),
    "down of another expert": lambda w: dataclasses.replace(w, down=np.roll(w.down, 1, axis=0)),
    "a thousandth more": lambda w: dataclasses.replace(w, down=w.down * np.float32(1.001)),
}


def _zeroed(weights: Weights, name: str, place: Any) -> Weights:
    array = np.array(getattr(weights, name))
    array[place] = 0
    return dataclasses.replace(weights, **{name: array})


@pytest.mark.parametrize("name", ["one wide", "odd", "relu"])
def test_float32_sums_are_within_the_bound_and_planted_faults_are_not(name: str) -> None:
    problem = ODD[name]
    for seed in SEEDS:
        weights = Weights.random(problem, seed).check(problem)
        case = right_answers.Case(24, "router", seed)
        expected = right_answers.expect(problem, weights, case)
        assert not off(expected, rounded(problem, weights, expected))
        for fault, plant in FAULTS.items():
            y = reference.moe(
                problem, plant(weights), expected.x[expected.rows],
                (expected.indices[expected.rows], expected.weights[expected.rows]),
            )  # fmt: skip
            assert off(expected, y), fault


def test_the_bound_of_a_common_shape_is_the_data_type_s_tolerance() -> None:
    """What was right before is right, what was wrong is wrong: the condition of such a layer is near 1."""
    problem = TINY.replace(hidden=1024, expert_dim=512)
    weights = Weights.random(problem, 0).check(problem)
    expected = right_answers.expect(problem, weights, right_answers.Case(16, "router", 5))
    relative = expected.bound / np.linalg.norm(expected.y, axis=1)
    assert (relative >= DTYPES["float32"].tolerance).all()
    assert (relative <= 3 * DTYPES["float32"].tolerance).all()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_extreme_tokens_are_what_their_places_say(dtype: str) -> None:
    problem = TINY.replace(dtype=dtype)
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal((extremes.TOKENS, problem.hidden), dtype=np.float32)
    x = extremes.with_extremes(problem, drawn.copy())
    assert x.dtype == NUMPY_DTYPES[dtype]
    wide = x.astype(np.float64)
    spoiled = extremes.spoiled(x)
    assert np.flatnonzero(spoiled).tolist() == [0, 2, 3, 5, 12]
    assert np.isnan(wide[0]).all()
    assert np.isinf(wide[2]).sum() == 1
    assert np.flatnonzero(~wide.any(axis=1)).tolist() == [9, 13]
    assert 0 < np.abs(wide[7]).max() < 1e-4
    assert np.flatnonzero(extremes.overflowing(x)).tolist() == [10]
    kept = extremes.without_extremes(x)
    assert np.isfinite(kept.astype(np.float64)).all()
    assert kept[~spoiled].tobytes() == x[~spoiled].tobytes()
    assert not kept[spoiled].any()


def test_one_token_and_a_batch_are_tried_with_extremes() -> None:
    loads = [(c.tokens, c.load) for c in right_answers.cases(TINY, 128, 12, seed=0)]
    assert (1, extremes.LOAD) in loads
    assert max(tokens for tokens, load in loads if load == extremes.LOAD) >= extremes.TOKENS
