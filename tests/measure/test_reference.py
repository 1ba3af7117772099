"""The reference against a layer written a second time, one scalar after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tuner.errors import ProblemError
from tuner.measure.reference import group_scores, moe, route
from tuner.problem import PRESETS, Problem
from tuner.problem.weights import Weights

SMALL: dict[str, dict[str, Any]] = {
    "granite-3.0-1b-a400m": {"num_experts": 12, "top_k": 4},
    "olmoe-1b-7b": {"num_experts": 12, "top_k": 4},
    "qwen3-30b-a3b": {"num_experts": 12, "top_k": 4},
    "mixtral-8x7b": {},
    "gpt-oss-20b": {"num_experts": 12},
    "deepseek-v3": {"num_experts": 24, "top_k": 4, "shared_dim": 7},
    "classic-moe": {},
}
HIDDEN = Problem(hidden=2, expert_dim=1, num_experts=4, top_k=2)


def small(name: str) -> Problem:
    return PRESETS[name].replace(hidden=11, expert_dim=5, **SMALL[name])


def problems() -> list[Problem]:
    """The seven configurations, and the forms that none of them has."""
    qwen, deepseek = small("qwen3-30b-a3b"), small("deepseek-v3")
    return [
        *(small(name) for name in PRESETS),
        qwen.replace(name="geglu", activation="geglu", expert_bias=True),
        qwen.replace(name="geglu-tanh", activation="geglu_tanh", router_bias=True),
        qwen.replace(name="softmax-corrected", correction_bias=True, routing_scale=1.5),
        deepseek.replace(name="sigmoid-raw", renormalize=False, num_groups=1, top_groups=1),
        deepseek.replace(name="groups-of-one", num_groups=24, top_groups=5),
        small("classic-moe").replace(name="relu-shared", shared_dim=3),
    ]


ALL = pytest.mark.parametrize("problem", problems(), ids=lambda p: p.name)


def tokens(problem: Problem, count: int = 9, seed: int = 5) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, problem.hidden), dtype=np.float32)


def dot(row: Any, x: list[float]) -> float:
    return math.fsum(float(a) * b for a, b in zip(row, x, strict=True))


def sigmoid(z: float) -> float:
    return 0.5 * (1 + math.tanh(z / 2))


def hand_activation(p: Problem, gate: float, up: float) -> float:
    if p.activation == "relu":
        return up if up > 0 else 0.0
    if p.activation == "swiglu":
        return up * gate / (1 + math.exp(-gate))
    if p.activation == "geglu":
        return up * gate * 0.5 * math.erfc(-gate / math.sqrt(2))
    if p.activation == "geglu_tanh":
        inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
        return up * gate * sigmoid(2 * inner)
    gate, up = min(gate, p.swiglu_limit), max(-p.swiglu_limit, min(up, p.swiglu_limit))
    return (up + 1) * gate * sigmoid(p.swiglu_alpha * gate)


def hand_route(p: Problem, w: Weights, x: list[float]) -> list[tuple[int, float]]:
    """(expert, weight) of one token, by falling choice."""
    logits = [dot(row, x) for row in w.router]
    if p.router_bias:
        logits = [z + float(b) for z, b in zip(logits, w.router_bias, strict=True)]
    total = math.fsum(math.exp(z) for z in logits)
    raw = {
        "softmax": [math.exp(z) / total for z in logits],
        "topk_softmax": logits,
        "sigmoid": [sigmoid(z) for z in logits],
    }[p.score]
    bias = [float(b) for b in w.correction_bias] if p.correction_bias else [0.0] * len(raw)
    choice = [s + b for s, b in zip(raw, bias, strict=True)]
    size = p.num_experts // p.num_groups
    worth = {g: sum(sorted(choice[g * size : (g + 1) * size])[-2:]) for g in range(p.num_groups)}
    kept = sorted(worth, key=lambda g: (-worth[g], g))[: p.top_groups]
    allowed = [e for e in range(p.num_experts) if e // size in kept]
    chosen = sorted(allowed, key=lambda e: (-choice[e], e))[: p.top_k]
    values = [math.exp(raw[e]) if p.score == "topk_softmax" else raw[e] for e in chosen]
    divisor = math.fsum(values) if p.renormalize else 1.0
    return [(e, p.routing_scale * v / divisor) for e, v in zip(chosen, values, strict=True)]


def hand_expert(
    p: Problem, x: list[float], gate: Any, up: Any, down: Any, biases: tuple[Any, Any, Any]
) -> list[float]:
    inner = []
    for f in range(len(up)):
        u = dot(up[f], x) + (float(biases[1][f]) if biases[1] is not None else 0.0)
        g = dot(gate[f], x) if p.gated else 0.0
        g += float(biases[0][f]) if biases[0] is not None else 0.0
        inner.append(hand_activation(p, g, u))
    extra = [0.0] * p.hidden if biases[2] is None else [float(b) for b in biases[2]]
    return [dot(row, inner) + b for row, b in zip(down, extra, strict=True)]


def hand_layer(p: Problem, w: Weights, x: list[float]) -> list[float]:
    """The whole layer for one token, in plain Python."""
    y = [0.0] * p.hidden
    if p.shared_dim:
        none = (None, None, None)
        y = hand_expert(p, x, w.shared_gate, w.shared_up, w.shared_down, none)
    for e, weight in hand_route(p, w, x):
        gate = w.gate[e] if p.gated else None
        arrays = (w.gate_bias, w.up_bias, w.down_bias)
        biases = tuple(None if a is None else a[e] for a in arrays)
        out = hand_expert(p, x, gate, w.up[e], w.down[e], biases)  # type: ignore[arg-type]
        y = [a + weight * b for a, b in zip(y, out, strict=True)]
    return y


@ALL
def test_routing_equals_the_hand_written_one(problem: Problem) -> None:
    weights, x = Weights.random(problem, 1), tokens(problem, 40)
    indices, chosen, scores = route(problem, weights, x)
    assert (indices.dtype, chosen.dtype, scores.dtype) == (np.int32, np.float64, np.float64)
    assert scores.shape == (40, problem.num_experts)
    for row in range(40):
        experts, values = zip(*hand_route(problem, weights, x[row].tolist()), strict=True)
        assert indices[row].tolist() == list(experts)
        assert np.allclose(chosen[row], values, rtol=1e-12, atol=0)


@ALL
def test_layer_equals_the_hand_written_one(problem: Problem) -> None:
    weights, x = Weights.random(problem, 2), tokens(problem)
    y = moe(problem, weights, x)
    expected = np.array([hand_layer(problem, weights, row) for row in x.tolist()])
    assert y.dtype == np.float64
    assert np.abs(y - expected).max() <= 1e-12 * np.abs(expected).max()


@ALL
def test_no_tokens_give_no_rows(problem: Problem) -> None:
    weights, x = Weights.random(problem, 0), tokens(problem, 0)
    assert route(problem, weights, x)[0].shape == (0, problem.top_k)
    assert moe(problem, weights, x).shape == x.shape


def test_softmax_by_hand() -> None:
    """Logits ln 1, ln 2, ln 3, ln 4: the probabilities are tenths; the choice is made on the logits."""
    for renormalize, expected in ((True, [4 / 7, 3 / 7]), (False, [0.4, 0.3])):
        indices, chosen, scores = route_logits([1, 2, 3, 4], renormalize=renormalize)
        assert np.allclose(scores, np.log([[1, 2, 3, 4]]), atol=1e-7)
        assert indices.tolist() == [[3, 2]]
        assert np.allclose(chosen, [expected], atol=1e-7)


def test_topk_softmax_returns_logits_as_scores() -> None:
    indices, chosen, scores = route_logits([1, 2, 3, 4], score="topk_softmax")
    assert np.allclose(scores, np.log([[1, 2, 3, 4]]), atol=1e-7)
    assert indices.tolist() == [[3, 2]]
    assert np.allclose(chosen, [[4 / 7, 3 / 7]], atol=1e-7)


def test_ties_go_to_the_lower_index() -> None:
    assert route_logits([2, 2, 2, 2])[0].tolist() == [[0, 1]]
    assert route_logits([1, 3, 2, 3])[0].tolist() == [[1, 3]]


def test_correction_bias_changes_the_choice_and_not_the_weight() -> None:
    """Sigmoids of ln 1, ln 1, ln 3, ln 4 are 1/2, 1/2, 3/4, 4/5; the bias lifts expert 0."""
    bias = np.array([1, 0, 0, 0], np.float32)
    options: dict[str, Any] = {"score": "sigmoid", "correction_bias": True, "renormalize": False}
    indices, chosen, scores = route_logits([1, 1, 3, 4], bias, **options)
    assert indices.tolist() == [[0, 3]]
    assert np.allclose(chosen, [[0.5, 0.8]], atol=1e-7)
    assert np.allclose(scores, [[1.5, 0.5, 0.75, 0.8]], atol=1e-7)


def test_a_group_counts_its_two_best_and_shuts_out_a_better_expert() -> None:
    """Expert 0 has the best score of all, but its group's two best add up to less."""
    options: dict[str, Any] = {"score": "sigmoid", "num_groups": 2, "routing_scale": 2.0}
    indices, chosen, scores = route_logits([9, 0.1, 3, 2], **options)
    problem = HIDDEN.replace(**options)
    assert np.allclose(group_scores(problem, scores), [[0.9 + 1 / 11, 0.75 + 2 / 3]], atol=1e-7)
    assert indices.tolist() == [[2, 3]]
    total = 0.75 + 2 / 3
    assert np.allclose(chosen, [[1.5 / total, 4 / 3 / total]], atol=1e-6)


def test_kept_group_is_chosen_from_even_where_its_scores_are_negative() -> None:
    """A bias below -1 makes every score negative; what is shut out must not win with a 0."""
    bias = np.array([-3, -3, -2, -2], np.float32)
    options: dict[str, Any] = {"score": "sigmoid", "num_groups": 2, "correction_bias": True}
    assert route_logits([9, 9, 1, 1], bias, **options)[0].tolist() == [[2, 3]]


def test_clamp_limits_gate_above_and_up_on_both_sides() -> None:
    problem = Problem(hidden=2, expert_dim=1, num_experts=1, top_k=1, activation="swiglu_clamped")
    for sign in (1, -1):
        weights = Weights(
            router=np.zeros((1, 2), np.float32),
            gate=np.array([[[50, 0]]], np.float32),
            up=np.array([[[0, 50 * sign]]], np.float32),
            down=np.array([[[1], [0]]], np.float32),
        )
        y = moe(problem, weights, np.ones((1, 2), np.float32))
        assert np.allclose(y, [[(7 * sign + 1) * 7 * sigmoid(1.702 * 7), 0]], atol=1e-12)


def test_given_routing_is_used() -> None:
    problem = small("mixtral-8x7b")
    weights, x = Weights.random(problem, 0), tokens(problem, 3)
    indices = np.array([[7, 0]] * 3, np.int32)
    y = moe(problem, weights, x, (indices, np.array([[0.25, 0.0]] * 3)))
    alone = moe(problem, weights, x, (indices[:, :1], np.ones((3, 1))))
    assert np.allclose(y, alone / 4, rtol=1e-13)


def test_wrong_width_of_x_is_named() -> None:
    with pytest.raises(ProblemError, match=r"^x: has shape \[1, 3\], must be \[T, 2\]"):
        route(HIDDEN, Weights.random(HIDDEN, 0), np.zeros((1, 3), np.float32))


def route_logits(odds: list[float], bias: Any = None, **form: Any) -> tuple[Any, Any, Any]:
    """Route one token whose four logits are the logarithms of ``odds``."""
    problem = HIDDEN.replace(**form)
    router = np.zeros((4, 2), np.float32)
    router[:, 0] = np.log(odds)
    weights = Weights.random(problem, 0)
    arrays = {"router": router, "up": weights.up, "down": weights.down, "gate": weights.gate}
    given = Weights(**arrays, correction_bias=bias).check(problem)
    return route(problem, given, np.array([[1, 0]], np.float32))
