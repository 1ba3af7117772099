"""The packed form against its definition, element by element."""

from __future__ import annotations

import numpy as np

from tuner.gpu import former
from tuner.problem import Problem
from tuner.problem.weights import Weights

SMALL = Problem(hidden=128, expert_dim=64, num_experts=3, top_k=2, shared_dim=128, dtype="float16")
PLAIN = Problem(
    hidden=64, expert_dim=128, num_experts=2, top_k=1, activation="relu", expert_bias=True, dtype="float16"
)  # fmt: skip


def element(block: np.ndarray, row: int, depth: int) -> float:
    """Where wgmma looks for an element of a block of rows of 128 bytes with the 128-byte swizzle."""
    return float(block[row, (depth // 8 ^ row % 8) * 8 + depth % 8])


def test_gate_and_up_take_turns_of_eight_rows() -> None:
    weights = Weights.random(SMALL, seed=3)
    packing = former.packing(SMALL)
    packed = packing.pack(weights)["product1"]
    assert packed.shape == packing.arrays["product1"].shape == (5, 2, 2, 64, 64)
    for feature, depth in ((0, 0), (9, 70), (37, 127), (63, 5)):
        block, place = divmod(feature, 32)
        row = place // 8 * 16 + place % 8
        of_expert = packed[1, block, depth // 64]
        assert element(of_expert, row, depth % 64) == weights.gate[1, feature, depth]
        assert element(of_expert, row + 8, depth % 64) == weights.up[1, feature, depth]


def test_rows_without_a_gate_end_with_four_neighbours_in_one_thread() -> None:
    weights = Weights.random(PLAIN, seed=4)
    packed = former.packing(PLAIN).pack(weights)
    assert packed["product1"].shape == (2, 2, 1, 64, 64)
    for column in (0, 3, 6, 13, 40, 63):
        warp, place = divmod(column, 16)
        thread, half, last = place // 4, place % 4 // 2, place % 2
        row = warp * 16 + half * 8 + thread * 2 + last
        assert element(packed["product2"][1, 0, 1], row, 33) == weights.down[1, column, 97]


def test_a_shared_expert_is_cut_into_experts() -> None:
    weights = Weights.random(SMALL, seed=5)
    packed = former.packing(SMALL).pack(weights)
    assert element(packed["product1"][4, 0, 0], 2, 7) == weights.shared_gate[64 + 2, 7]
    assert element(packed["product2"][4, 0, 0], 1, 7) == weights.shared_down[1, 64 + 7]


def test_what_a_problem_lacks_is_one_zero() -> None:
    packed = former.packing(SMALL).pack(Weights.random(SMALL, seed=6))
    assert {n: packed[n].tolist() for n in ("gate_bias", "router_bias")} == {
        "gate_bias": [0.0],
        "router_bias": [0.0],
    }
    assert packed["router"].shape == (64, 128)
    assert not packed["router"][3:].any()
