"""Fused experts in Triton, as serving engines have them: contestants of benchmarks/gpu_peers.py.

The scheme is that of vLLM's `fused_moe`: (token, expert) pairs are sorted by expert and padded to whole blocks,
one kernel multiplies each block of gathered rows by its expert's weights, another applies the activation, the
first one again multiplies by the second weights and scales by the routing weight, a token's rows are summed.
`TritonFused` is that alone, on pairs that were sorted beforehand; `TritonLayer` also has the router's product,
a kernel for softmax and top-k, and two that sort. Blocks are tuned for each number of tokens and each of the
products, over configurations of the kinds that vLLM ships for Hopper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gpu_triton_kernels as kernels
import numpy as np
import torch
import triton
from gpu_peer_torch import on_device
from numpy.typing import NDArray

from tuner.problem import Problem

_WARM_MS, _MEASURE_MS = 5, 25  # of one configuration
_STEP = 1024  # elements of one block of the activation


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


# By number of tokens and product: the milliseconds of each configuration that the card takes.
Times = dict[tuple[int, str], dict[Blocks, float]]


class Buffers:
    """What a call writes: the hidden rows before and after the activation, and a row for each pair."""

    def __init__(self, problem: Problem, tokens: int) -> None:
        made: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
        self.pairs = tokens * problem.top_k
        self.both = torch.empty(self.pairs, 2 * problem.expert_dim, **made)
        self.hidden = torch.empty(self.pairs, problem.expert_dim, **made)
        self.rows = torch.empty(self.pairs, problem.hidden, **made)


@dataclass
class Listed:
    """Pairs in blocks of one size: the pairs, each block's expert, and how many blocks are used of the most."""

    pairs: torch.Tensor
    experts: torch.Tensor
    used: torch.Tensor
    most: int


class TritonFused:
    """See the module: neither router nor top-k nor sort is in its time."""

    name = "triton fused experts, products alone"

    def __init__(self, matrices: Any, times: Times) -> None:
        self._m, self._times = matrices, times

    @staticmethod
    def refusal(problem: Problem) -> str:
        return "" if problem.activation == "swiglu" else "its activation is SwiGLU alone"

    def prepare(self, x: NDArray[Any], routing: Any) -> Callable[[], torch.Tensor]:
        indices, weights = self._m.chosen(x, routing)
        buffers = Buffers(self._m.problem, len(x))
        tokens, scales = on_device(x), torch.from_numpy(weights.ravel()).cuda()
        known: dict[int, Listed] = {}

        def listed(rows: int) -> Listed:
            if rows not in known:
                pairs, experts = sorted_blocks(indices, self._m.problem.num_experts, rows)
                used = torch.tensor([len(experts)], dtype=torch.int32, device="cuda")
                known[rows] = Listed(
                    torch.from_numpy(pairs).cuda(),
                    torch.from_numpy(experts).cuda(),
                    used,
                    len(experts),
                )
            return known[rows]

        call = self._experts(tokens, buffers, scales, listed, CANDIDATES)
        self._check(call()[0], tokens[0], indices[0], weights[0])
        return call

    def _experts(
        self,
        tokens: torch.Tensor,
        buffers: Buffers,
        scales: torch.Tensor,
        listed: Callable[[int], Listed],
        candidates: Sequence[Blocks],
    ) -> Callable[[], torch.Tensor]:
        """From tokens to y: both products, each in the fastest of the configurations, SwiGLU and the sum."""
        m, k = self._m, self._m.problem.top_k

        def product(a, b, c, per_row, scaled, blocks):  # type: ignore[no-untyped-def]
            on = listed(blocks.m)
            grid = (on.most * triton.cdiv(b.shape[1], blocks.n),)
            return lambda: kernels.expert_matmul[grid](
                a, b, c, scales, on.pairs, on.experts, on.used, buffers.pairs, on.most,
                b.shape[1], b.shape[2], per_row, scaled, blocks.m, blocks.n, blocks.k, blocks.group,
                num_warps=blocks.warps, num_stages=blocks.stages,
            )  # fmt: skip

        def tuned(which, made):  # type: ignore[no-untyped-def]
            key = (len(tokens), which)
            if key not in self._times:  # once, whatever the load, as engines do
                self._times[key] = dict(_measured(made))
            return made(min(candidates, key=lambda c: self._times[key].get(c, math.inf)))

        first = tuned("first", lambda c: product(tokens, m.first, buffers.both, k, False, c))
        second = tuned(
            "second", lambda c: product(buffers.hidden, m.second, buffers.rows, 1, True, c)
        )
        size, width = buffers.hidden.numel(), buffers.hidden.shape[1]
        grid = (triton.cdiv(size, _STEP),)

        def call() -> torch.Tensor:
            first()
            kernels.swiglu[grid](buffers.both, buffers.hidden, size, width, _STEP)
            second()
            return buffers.rows.view(len(tokens), k, -1).sum(1)

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
        assert (y.float() - right).norm() <= 2e-2 * right.norm(), f"{self.name}: wrong"


def _measured(made: Callable[[Blocks], Callable[[], Any]]) -> Iterable[tuple[Blocks, float]]:
    """The configurations that the card takes, with their milliseconds."""
    for blocks in CANDIDATES:
        try:
            run = made(blocks)
            run()
        except triton.runtime.errors.OutOfResources:
            continue  # more shared memory than the card has
        yield (
            blocks,
            triton.testing.do_bench(run, warmup=_WARM_MS, rep=_MEASURE_MS, return_mode="median"),
        )


class TritonLayer(TritonFused):
    """The whole layer. Imposed routing takes the place of router and top-k, but is sorted.

    Both products have blocks of as many rows, since one sort serves both. It takes the times of `TritonFused`.
    """

    name = "triton layer"

    @staticmethod
    def refusal(problem: Problem) -> str:
        plain = problem.score != "sigmoid" and not problem.router_bias
        return TritonFused.refusal(problem) or (
            "" if plain else "its router is a softmax without biases"
        )

    def prepare(self, x: NDArray[Any], routing: Any) -> Callable[[], torch.Tensor]:
        m, problem = self._m, self._m.problem
        given_indices, given_weights = m.chosen(x, routing)
        buffers, tokens = Buffers(problem, len(x)), on_device(x)
        pairs, experts = buffers.pairs, problem.num_experts
        # A softmax over the chosen logits is one over all whose chosen ones are divided by their sum.
        renormalize = problem.renormalize or problem.score == "topk_softmax"
        candidates = self._of_one_size(len(x))
        rows = candidates[0].m
        indices, scales = (
            torch.from_numpy(given_indices).cuda(),
            torch.from_numpy(given_weights).cuda(),
        )
        counts = torch.bincount(indices.ravel(), minlength=experts).to(torch.int32)
        cursors = torch.empty_like(counts)
        most = min(pairs, experts + pairs // rows)
        numbers: dict[str, Any] = {"dtype": torch.int32, "device": "cuda"}
        on = Listed(
            torch.empty(most * rows, **numbers),
            torch.empty(most, **numbers),
            torch.empty(1, **numbers),
            most,
        )
        wide = triton.next_power_of_2(experts)

        def route() -> None:
            counts.zero_()
            logits = torch.nn.functional.linear(tokens, m.router)
            kernels.top_k[(len(x),)](
                logits, indices, scales, counts, experts, wide, problem.top_k,
                triton.next_power_of_2(problem.top_k), renormalize, num_warps=1,
            )  # fmt: skip

        def sort() -> None:
            kernels.share_blocks[(experts + 1,)](
                counts, cursors, on.pairs, on.experts, on.used, pairs, experts, wide, rows, 128
            )
            kernels.scatter[(triton.cdiv(pairs, 256),)](indices, cursors, on.pairs, pairs, 256)

        run_experts = self._experts(tokens, buffers, scales, lambda _: on, candidates)

        def call() -> torch.Tensor:
            if routing is None:
                route()
            sort()
            return run_experts()

        self._check(call()[0], tokens[0], given_indices[0], given_weights[0])
        return call

    def _of_one_size(self, tokens: int) -> list[Blocks]:
        """The configurations with the number of rows that serves both products best."""
        both = [self._times[tokens, which] for which in ("first", "second")]

        def least(rows: int) -> float:
            return sum(
                min((t for c, t in times.items() if c.m == rows), default=math.inf)
                for times in both
            )

        rows = min({c.m for c in CANDIDATES}, key=least)
        return [c for c in CANDIDATES if c.m == rows]
