"""Weights packed as moetune did it before programs described it; kernels in bundles of then read these bytes.

Blocks of 64 rows x 64 depth elements as wgmma reads them. Nothing but a test of `tuner.gpu.former` uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.problem import Problem
from tuner.problem.weights import Weights

BLOCK = 64  # rows and depth elements of a block
_PIECE = 8  # elements of 16 bytes, what the swizzle moves
_ROUTER_ROWS = 64

Array = NDArray[Any]


def packed_shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    """Shape of each packed matrix: [experts, blocks of rows, blocks of depth, 64, 64]."""
    shared = problem.shared_dim // problem.expert_dim
    experts = problem.num_experts + shared
    forms = 2 if problem.gated else 1
    rows = -(-forms * problem.expert_dim // BLOCK)
    return {
        "product1": (experts, rows, problem.hidden // BLOCK, BLOCK, BLOCK),
        "product2": (
            experts,
            -(-problem.hidden // BLOCK),
            problem.expert_dim // BLOCK,
            BLOCK,
            BLOCK,
        ),
    }


def router_rows(problem: Problem) -> int:
    """Rows of the packed router; those past the experts are 0."""
    return -(-problem.num_experts // _ROUTER_ROWS) * _ROUTER_ROWS


def pack(problem: Problem, weights: Weights) -> dict[str, Array]:
    """Everything that the kernels read, by the names of their parameters.

    Matrices keep their data type; biases are float32, those of shared experts 0. What a problem does
    not have is one zero.
    """
    made = {
        name: np.empty(shape, weights.up.dtype) for name, shape in packed_shapes(problem).items()
    }

    def one(item: tuple[int, tuple[Array | None, Array, Array]]) -> None:
        expert, (gate, up, down) = item
        made["product1"][expert] = _blocks(
            neighboured(up) if gate is None else interleaved(gate, up)
        )
        made["product2"][expert] = _blocks(neighboured(down))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, enumerate(_experts(problem, weights))))
    router = np.zeros((router_rows(problem), problem.hidden), weights.router.dtype)
    router[: problem.num_experts] = weights.router
    made["router"] = router
    made["router_bias"] = _floats(weights.router_bias)
    made["correction"] = _floats(weights.correction_bias)
    for name in ("gate_bias", "up_bias", "down_bias"):
        made[name] = _with_shared(problem, getattr(weights, name))
    return made


def _experts(problem: Problem, weights: Weights) -> Iterator[tuple[Array | None, Array, Array]]:
    """Gate, up and down of each expert; a shared one is cut into experts of the routed ones' width."""
    for e in range(problem.num_experts):
        yield None if weights.gate is None else weights.gate[e], weights.up[e], weights.down[e]
    width = problem.expert_dim
    for at in range(0, problem.shared_dim, width):
        part = slice(at, at + width)
        gate = None if weights.shared_gate is None else weights.shared_gate[part]
        yield gate, weights.shared_up[part], weights.shared_down[:, part]


def interleaved(gate: Array, up: Array) -> Array:
    """Rows of gate and up [F, D] in turns of 8: one thread gets both values of a feature."""
    features, depth = up.shape
    pairs = np.stack([gate.reshape(-1, _PIECE, depth), up.reshape(-1, _PIECE, depth)], axis=1)
    return pairs.reshape(2 * features, depth)


def neighboured(matrix: Array) -> Array:
    """Rows of a matrix [rows, depth] with each 16 in the order that gives one thread 4 neighbours."""
    rows, depth = matrix.shape
    # [16 rows, thread, half, element] -> [16 rows, half, thread, element]
    parts = matrix.reshape(rows // 16, 4, 2, 2, depth).transpose(0, 2, 1, 3, 4)
    return parts.reshape(rows, depth)


def _blocks(matrix: Array) -> Array:
    """[rows, depth] as swizzled blocks; missing rows of the last one are 0."""
    rows, depth = matrix.shape
    whole = -(-rows // BLOCK) * BLOCK
    if whole != rows:
        matrix = np.concatenate([matrix, np.zeros((whole - rows, depth), matrix.dtype)])
    # [block, row / 8, row % 8, depth block, piece, element]
    parts = matrix.reshape(whole // BLOCK, BLOCK // 8, 8, depth // BLOCK, BLOCK // _PIECE, _PIECE)
    row = np.arange(8)[:, None]
    piece = np.arange(8)[None, :]
    # Place p of row r holds piece p ^ r: the swizzle is its own inverse.
    swizzled = parts[
        :, :, row, :, row ^ piece
    ]  # [row % 8, piece, block, row / 8, depth block, element]
    return swizzled.transpose(2, 4, 3, 0, 1, 5).reshape(
        whole // BLOCK, depth // BLOCK, BLOCK, BLOCK
    )


def _floats(array: Array | None) -> Array:
    return np.zeros(1, np.float32) if array is None else np.asarray(array, np.float32)


def _with_shared(problem: Problem, bias: Array | None) -> Array:
    if bias is None:
        return np.zeros(1, np.float32)
    shared = problem.shared_dim // problem.expert_dim
    return np.concatenate([_floats(bias), np.zeros((shared, bias.shape[1]), np.float32)])
