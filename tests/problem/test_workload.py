"""Workload: loads, the routings drawn from them, and counted operations and bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tuner.errors import ProblemError
from tuner.problem import Problem
from tuner.problem.workload import (
    Load,
    Workload,
    flops,
    pairs_per_expert,
    parse_load,
    route_by_load,
    weight_bytes_read,
)

PROBLEM = Problem(hidden=16, expert_dim=8, num_experts=8, top_k=3, routing_scale=2.5)
LOADS = ["uniform", "zipf:1.2", "onehot"]


def test_parse_load_reads_the_three_kinds() -> None:
    parsed = [parse_load(text) for text in LOADS]
    assert parsed == [Load("uniform"), Load("zipf", 1.2), Load("onehot")]
    assert [str(load) for load in parsed] == LOADS


def test_spellings_of_one_load_are_one_workload() -> None:
    assert Workload(4, "zipf:1.20") == Workload(4, "zipf:1.2")


@pytest.mark.parametrize(
    "text", ["", "zipf", "zipf:", "zipf:x", "zipf:-1", "zipf:nan", "onehot:3", "uniform:", "hot"]
)
def test_unknown_load_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ProblemError, match=f"^load='{text}': not known; use uniform, onehot or"):
        Workload(4, text)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [(-1, "tokens=-1: must be at least 0"), (1.5, "tokens=1.5: must be a whole number")],
)
def test_tokens_out_of_range_are_refused(tokens: int, message: str) -> None:
    with pytest.raises(ProblemError, match=f"^{message}"):
        Workload(tokens)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("tokens", [0, 1, 33])
def test_routing_has_distinct_experts_and_weights_that_sum_up(load: str, tokens: int) -> None:
    indices, weights = route_by_load(PROBLEM, Workload(tokens, load), seed=1)
    assert (indices.dtype, weights.dtype) == (np.int32, np.float32)
    assert indices.shape == weights.shape == (tokens, 3)
    assert all(len(set(row)) == 3 and 0 <= min(row) <= max(row) < 8 for row in indices.tolist())
    assert np.allclose(weights.sum(axis=1), 2.5)
    assert (weights > 0).all()
    assert (np.diff(weights, axis=1) <= 0).all()


def test_routing_depends_on_the_seed_alone() -> None:
    one, again, other = (route_by_load(PROBLEM, Workload(20), seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_onehot_gives_each_token_to_expert_zero() -> None:
    indices, _ = route_by_load(PROBLEM, Workload(400, "onehot"), seed=0)
    counts = pairs_per_expert(PROBLEM, indices)
    assert (indices[:, 0] == 0).all()
    assert counts[0] == 400
    assert counts[1:].min() > 70  # 800 pairs over the 7 others


def test_uniform_is_even_and_zipf_falls_with_its_exponent() -> None:
    one = PROBLEM.replace(top_k=1)
    even = route_by_load(one, Workload(8000), seed=0)[0]
    skewed = route_by_load(one, Workload(8000, "zipf:1.2"), seed=0)[0]
    law = np.arange(1, 9) ** -1.2
    for indices, shares in ((even, np.full(8, 1 / 8)), (skewed, law / law.sum())):
        measured = pairs_per_expert(one, indices) / 8000
        assert np.abs(measured - shares).max() < 0.02


def test_flops_counts_pairs_the_shared_expert_and_the_router() -> None:
    counts = np.array([2, 0, 4, 0, 0, 0, 0, 0])
    per_pair, router = 6 * 16 * 8, 2 * 8 * 16
    assert flops(PROBLEM, counts, 2) == 6 * per_pair + 2 * router
    shared = PROBLEM.replace(shared_dim=5, activation="relu")
    assert flops(shared, counts, 2) == 6 * 4 * 128 + 2 * (4 * 80 + router)


def test_bytes_are_those_of_active_experts_router_and_activations() -> None:
    counts = np.array([2, 0, 4, 0, 0, 0, 0, 0])
    expert, router, activations = 4 * 3 * 128, 4 * 8 * 16, 2 * 2 * 16 * 4
    assert weight_bytes_read(PROBLEM, counts) == 2 * expert + router + activations
    shared = PROBLEM.replace(shared_dim=5)
    assert weight_bytes_read(shared, counts) == 2 * expert + router + activations + 4 * 3 * 80
    assert weight_bytes_read(PROBLEM, np.zeros(8, np.int64)) == 0
