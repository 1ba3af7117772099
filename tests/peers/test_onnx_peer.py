"""ONNX Runtime's MoE operator computes what the layer says, however its tokens are routed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tuner.measure import reference, right_answers
from tuner.peers.onnx_peer import OnnxPeer, graph, refusal
from tuner.problem import Problem
from tuner.problem.weights import Weights

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

TINY = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2)
ROUTINGS: dict[str, dict[str, Any]] = {
    "renormalised": {},
    "over all": {"renormalize": False},
    "scaled": {"renormalize": False, "routing_scale": 1.5, "router_bias": True},
    "over the k": {"score": "topk_softmax", "router_bias": True},
    "corrected": {"correction_bias": True},
    "sigmoid": {"score": "sigmoid", "renormalize": False, "routing_scale": 0.5},
    "groups": {"score": "sigmoid", "num_groups": 4, "top_groups": 2, "correction_bias": True},
    "groups of one": {"score": "sigmoid", "num_groups": 8, "top_groups": 3},
}


def worst(problem: Problem, load: str, tokens: int = 19) -> float:
    """The largest relative error of all forms."""
    weights = Weights.random(problem, 3).check(problem)
    case = right_answers.expect(problem, weights, right_answers.Case(tokens, load, 5))
    routing = (case.indices, case.weights.astype(np.float32)) if case.routed else None
    ys = [call(case.x, routing).copy() for call in OnnxPeer(problem, weights, 2).forms().values()]
    sizes = np.linalg.norm(case.y, axis=1)
    return max(float((np.linalg.norm(y - case.y, axis=1) / sizes).max()) for y in ys)


@pytest.mark.parametrize("change", ROUTINGS.values(), ids=ROUTINGS)
def test_it_routes_for_itself(change: dict[str, Any]) -> None:
    assert worst(TINY.replace(**change), "router") <= 1e-5


@pytest.mark.parametrize("change", ROUTINGS.values(), ids=ROUTINGS)
@pytest.mark.parametrize("load", ["onehot", "zipf:1.2"])
def test_a_routing_can_be_imposed(change: dict[str, Any], load: str) -> None:
    assert worst(TINY.replace(**change), load) <= 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "relu", "shared_dim": 24},
        {"activation": "relu", "expert_bias": True},
        {"activation": "swiglu", "shared_dim": 24, "routing_scale": 2.5, "expert_bias": True},
        {"activation": "swiglu_clamped", "expert_bias": True},
        {"activation": "swiglu_clamped", "swiglu_limit": 1.0, "swiglu_alpha": 0.7},
    ],
)
def test_forms_of_experts(change: dict[str, Any]) -> None:
    problem = TINY.replace(**change)
    assert refusal(problem) == ""
    assert worst(problem, "router") <= 1e-5


def test_weights_that_a_caller_gives_need_not_sum_to_one() -> None:
    problem = TINY.replace(renormalize=False)
    weights = Weights.random(problem, 3).check(problem)
    case = right_answers.expect(problem, weights, right_answers.Case(5, "uniform", 5))
    given = np.linspace(0.1, 3, 10, dtype=np.float32).reshape(5, 2)
    y = reference.moe(problem, weights, case.x, (case.indices, given))
    for call in OnnxPeer(problem, weights, 1).forms().values():
        np.testing.assert_allclose(call(case.x, (case.indices, given)), y, atol=1e-5)


def test_the_number_of_tokens_may_change() -> None:
    weights = Weights.random(TINY, 3).check(TINY)
    for call in OnnxPeer(TINY, weights, 2).forms().values():
        for tokens in (7, 1, 7):
            case = right_answers.expect(TINY, weights, right_answers.Case(tokens, "router", 5))
            np.testing.assert_allclose(call(case.x, None), case.y, atol=1e-5)


def test_its_own_routing_needs_nothing_but_the_operator() -> None:
    text = graph(TINY, {"fc1": np.zeros((8, 64, 64)), "fc2": np.zeros((8, 64, 32))}, False)
    nodes = [line.split(" = ")[1].split()[0] for line in text.splitlines() if line[:2] == "  "]
    assert nodes == ["Gemm", "Identity", "com.microsoft.MoE"]


def test_published_weights_are_not_copied_where_the_operator_takes_them() -> None:
    problem = replace(TINY, activation="relu")
    weights = Weights.random(problem, 3).check(problem)
    experts = OnnxPeer(problem, weights, 1)._experts
    assert experts["fc1"] is weights.up
    assert experts["fc2"] is weights.down
