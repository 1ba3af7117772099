"""A fused expert kernel in Triton, as serving engines have it: a contestant of benchmarks/gpu_peers.py.

The scheme is that of vLLM's `fused_moe`: (token, expert) pairs are sorted by expert and padded to whole blocks,
one kernel multiplies each block of gathered rows by its expert's weights, another applies the activation, the
first one again multiplies by the second weights and scales by the routing weight, a token's rows are summed.
Sorting is done beforehand and not counted. Blocks are tuned for each number of tokens and each of the products,
over configurations of the kinds that vLLM ships for Hopper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from tuner.problem import Problem

_WARM_MS, _MEASURE_MS = 5, 25  # of one configuration
_STEP = 1024  # elements of one block of the activation


@triton.jit
def _expert_matmul(
    a, b, c, scales, pairs_of_blocks, experts_of_blocks, pairs, blocks, n, k,
    per_row: tl.constexpr, scaled: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """c[pair] = a[pair // per_row] @ b[expert of its block].T, times the pair's scale where `scaled`."""
    program = tl.program_id(0)
    columns = tl.cdiv(n, block_n)
    first = program // (group * columns) * group
    rows = min(blocks - first, group)
    inside = program % (group * columns)
    block, column = first + inside % rows, inside // rows
    pair = tl.load(pairs_of_blocks + block * block_m + tl.arange(0, block_m)).to(tl.int64)
    real = pair < pairs
    expert = tl.load(experts_of_blocks + block).to(tl.int64)
    depth = tl.arange(0, block_k)
    wide = (column * block_n + tl.arange(0, block_n)) % n
    a_at = a + (pair // per_row)[:, None] * k + depth[None, :]
    b_at = b + expert * n * k + wide[None, :] * k + depth[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for _ in range(0, tl.cdiv(k, block_k)):
        total += tl.dot(tl.load(a_at, mask=real[:, None], other=0.0), tl.load(b_at))
        a_at += block_k
        b_at += block_k
    if scaled:
        total *= tl.load(scales + pair, mask=real, other=0.0)[:, None]
    out = column * block_n + tl.arange(0, block_n)
    keep = real[:, None] & (out < n)[None, :]
    tl.store(c + pair[:, None] * n + out[None, :], total.to(tl.bfloat16), mask=keep)


@triton.jit
def _swiglu(both, hidden, size, width: tl.constexpr, step: tl.constexpr):
    """hidden[row] = silu(gate) * up, of rows that are [gate, up]."""
    at = tl.program_id(0).to(tl.int64) * step + tl.arange(0, step)
    inside = at < size
    gate_at = both + at // width * (2 * width) + at % width
    gate = tl.load(gate_at, mask=inside).to(tl.float32)
    up = tl.load(gate_at + width, mask=inside).to(tl.float32)
    tl.store(hidden + at, (gate * tl.sigmoid(gate) * up).to(tl.bfloat16), mask=inside)


@dataclass(frozen=True)
class Blocks:
    """A configuration of the matrix kernel: rows, columns and depth of a block, and how it is run."""

    m: int
    n: int
    k: int
    group: int
    warps: int
    stages: int


CANDIDATES = (
    Blocks(16, 64, 128, 1, 4, 4),
    Blocks(16, 128, 128, 1, 4, 4),
    Blocks(16, 128, 64, 1, 4, 5),
    Blocks(32, 64, 128, 1, 4, 4),
    Blocks(32, 128, 64, 1, 4, 4),
    Blocks(64, 128, 64, 1, 4, 4),
    Blocks(64, 128, 64, 16, 4, 4),
    Blocks(64, 128, 128, 1, 4, 3),
    Blocks(64, 256, 64, 1, 8, 4),
    Blocks(64, 256, 64, 16, 8, 4),
    Blocks(128, 128, 64, 1, 8, 4),
    Blocks(128, 128, 64, 16, 8, 4),
    Blocks(128, 256, 64, 1, 8, 4),
    Blocks(128, 256, 64, 16, 8, 3),
    Blocks(128, 256, 64, 16, 8, 4),
)


def sorted_blocks(
    indices: NDArray[np.int32], experts: int, rows: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Pairs sorted by expert, each expert's padded to whole blocks of `rows`; and the blocks' experts.

    A pair is its place in `indices` [T, k]; the padding is one past the last.
    """
    flat = indices.ravel()
    order = np.argsort(flat, kind="stable").astype(np.int32)
    counts = np.bincount(flat, minlength=experts)
    padded, owners, start = [], [], 0
    for expert, count in enumerate(counts):
        blocks = -(-int(count) // rows)
        padded += [order[start : start + count]]
        padded += [np.full(blocks * rows - count, flat.size, np.int32)]
        owners += [np.full(blocks, expert, np.int32)]
        start += count
    return np.concatenate(padded), np.concatenate(owners)


class TritonFused:
    """See the module: neither router nor top-k nor sort is in its time."""

    name = "triton fused experts, products alone"

    def __init__(self, matrices: Any) -> None:
        self._m = matrices
        self._best: dict[tuple[int, str], Blocks] = {}

    @staticmethod
    def refusal(problem: Problem) -> str:
        return "" if problem.activation == "swiglu" else "its activation is SwiGLU alone"

    def prepare(self, x: NDArray[Any], routing: Any) -> Callable[[], torch.Tensor]:
        m, problem = self._m, self._m.problem
        indices, weights = m.chosen(x, routing)
        pairs, k = indices.size, problem.top_k
        tokens = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16).cuda()
        scales = torch.from_numpy(weights.ravel()).cuda()
        made = {"dtype": torch.bfloat16, "device": "cuda"}
        both = torch.empty(pairs, 2 * problem.expert_dim, **made)
        hidden = torch.empty(pairs, problem.expert_dim, **made)
        rows = torch.empty(pairs, problem.hidden, **made)

        def product(a, b, c, per_row, scaled, blocks):  # type: ignore[no-untyped-def]
            listed, owners = sorted_blocks(indices, problem.num_experts, blocks.m)
            pairs_of_blocks, experts = (
                torch.from_numpy(listed).cuda(),
                torch.from_numpy(owners).cuda(),
            )
            grid = (len(owners) * triton.cdiv(b.shape[1], blocks.n),)
            return lambda: _expert_matmul[grid](
                a, b, c, scales, pairs_of_blocks, experts, pairs, len(owners), b.shape[1], b.shape[2],
                per_row, scaled, blocks.m, blocks.n, blocks.k, blocks.group,
                num_warps=blocks.warps, num_stages=blocks.stages,
            )  # fmt: skip

        first = self._tuned(len(x), "first", lambda c: product(tokens, m.first, both, k, False, c))
        second = self._tuned(
            len(x), "second", lambda c: product(hidden, m.second, rows, 1, True, c)
        )

        def call() -> torch.Tensor:
            first()
            _swiglu[(triton.cdiv(hidden.numel(), _STEP),)](
                both, hidden, hidden.numel(), problem.expert_dim, _STEP
            )
            second()
            return rows.view(len(x), k, -1).sum(1)

        self._check(call()[0], tokens[0], indices[0], weights[0])
        return call

    def _check(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        indices: NDArray[np.int32],
        weights: NDArray[np.float32],
    ) -> None:
        """Raises AssertionError where the first token's row is wrong."""
        right = torch.zeros_like(x, dtype=torch.float32)
        for expert, weight in zip(indices.tolist(), weights.tolist(), strict=True):
            hidden = self._m.activate((self._m.first[expert].float() @ x.float())[None])[0]
            right += weight * (self._m.second[expert].float() @ hidden)
        assert (y.float() - right).norm() <= 2e-2 * right.norm(), "the Triton peer is wrong"

    def _tuned(
        self, tokens: int, which: str, made: Callable[[Blocks], Callable[[], Any]]
    ) -> Callable[[], Any]:
        """The fastest configuration, found once for a number of tokens, whatever the load, as engines do."""
        key = (tokens, which)
        if key not in self._best:
            times = dict(self._times(made))
            self._best[key] = min(times, key=times.__getitem__)
            print(f"triton, T={tokens}, {which} product: {self._best[key]}", flush=True)
        return made(self._best[key])

    @staticmethod
    def _times(made: Callable[[Blocks], Callable[[], Any]]) -> Iterable[tuple[Blocks, float]]:
        for blocks in CANDIDATES:
            try:
                run = made(blocks)
                run()
            except triton.runtime.errors.OutOfResources:
                continue  # more shared memory than the card has
            yield (
                blocks,
                triton.testing.do_bench(
                    run, warmup=_WARM_MS, rep=_MEASURE_MS, return_mode="median"
                ),
            )
