"""What PyTorch offers for the same layer on a GPU: contestants of benchmarks/gpu_peers.py.

Each is a class with `prepare(x, routing)`, which returns a call that can be captured in a CUDA graph. Routing
is (indices, weights) where it is imposed, else None.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from tuner.measure.reference import route
from tuner.problem import Problem
from tuner.problem.weights import Weights

Routing = tuple[NDArray[np.int32], NDArray[np.float32]]
Call = Callable[[], torch.Tensor]


def on_device(array: NDArray[Any]) -> torch.Tensor:
    """An array of 2-byte elements as a bfloat16 tensor on the GPU."""
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()


class Matrices:
    """One layer's weights on the GPU, shared by all contestants: [E, 2F or F, D] and [E, D, F]."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        parts = [weights.gate, weights.up] if problem.gated else [weights.up]
        self.problem, self.weights = problem, weights
        self.first = on_device(np.concatenate(parts, axis=1))
        self.second = on_device(weights.down)
        self.router = on_device(weights.router)

    def activate(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.problem.gated:
            return F.relu(hidden)
        gate, up = hidden.chunk(2, dim=1)
        return F.silu(gate) * up

    def chosen(self, x: NDArray[Any], routing: Routing | None) -> Routing:
        """Indices and weights of the tokens: the imposed ones, or the router's own."""
        if routing is not None:
            return routing
        indices, weights, _ = route(self.problem, self.weights, x)
        return indices, weights.astype(np.float32)


def refusal(problem: Problem) -> str:
    """Why these peers don't compute a problem; empty where they do."""
    if problem.activation not in ("swiglu", "relu") or problem.expert_bias or problem.shared_dim:
        return "the peer is written for SwiGLU or ReLU without biases and shared experts"
    return "" if problem.dtype == "bfloat16" else "the peer is written for bfloat16"


class GroupedMm:
    """`torch.nn.functional.grouped_mm`: the two products and the activation between them, on tokens that are
    sorted by expert beforehand. Routing, sorting and combining are not done, so it does less than a layer."""

    name = "grouped_mm, products alone"

    def __init__(self, matrices: Matrices) -> None:
        self._m = matrices

    def prepare(self, x: NDArray[Any], routing: Routing | None) -> Call:
        m, problem = self._m, self._m.problem
        indices = m.chosen(x, routing)[0]
        order = np.argsort(indices, axis=None, kind="stable")
        counts = np.bincount(indices.ravel(), minlength=problem.num_experts)
        tokens = on_device(x[order // problem.top_k])
        ends = torch.from_numpy(np.cumsum(counts).astype(np.int32)).cuda()
        first, second = m.first.transpose(1, 2), m.second.transpose(1, 2)

        def call() -> torch.Tensor:
            hidden = m.activate(F.grouped_mm(tokens, first, offs=ends))
            return F.grouped_mm(hidden, second, offs=ends)

        return call


class EagerLoop:
    """The whole layer as Hugging Face's blocks have it: router, top-k, an expert after the other, `index_add_`.

    Which tokens an expert has is worked out beforehand, since a CUDA graph cannot ask: it does a little less
    than such a block."""

    name = "eager loop"

    def __init__(self, matrices: Matrices) -> None:
        self._m = matrices

    def prepare(self, x: NDArray[Any], routing: Routing | None) -> Call:
        m, problem = self._m, self._m.problem
        indices, weights = m.chosen(x, routing)
        tokens = on_device(x)
        mine = []
        for expert in np.unique(indices):
            rows, places = np.nonzero(indices == expert)
            share = torch.from_numpy(weights[rows, places]).cuda().to(torch.bfloat16)[:, None]
            mine.append((int(expert), torch.from_numpy(rows).cuda(), share))

        def call() -> torch.Tensor:
            if routing is None:
                F.linear(tokens, m.router).float().softmax(1).topk(problem.top_k)
            y = torch.zeros_like(tokens)
            for expert, rows, share in mine:
                hidden = m.activate(F.linear(tokens[rows], m.first[expert]))
                y.index_add_(0, rows, F.linear(hidden, m.second[expert]) * share)
            return y

        return call


class VllmFused:
    """vLLM's Triton kernel: `fused_topk` and `fused_experts`, where vLLM is installed."""

    name = "vllm fused_experts"

    def __init__(self, matrices: Matrices) -> None:
        self._m = matrices

    @staticmethod
    def installed() -> bool:
        return importlib.util.find_spec("vllm") is not None

    def prepare(self, x: NDArray[Any], routing: Routing | None) -> Call:
        from vllm.model_executor.layers.fused_moe import fused_experts, fused_topk

        m, problem = self._m, self._m.problem
        tokens = on_device(x)
        given = None
        if routing is not None:
            given = (torch.from_numpy(routing[1]).cuda(), torch.from_numpy(routing[0]).cuda())

        def call() -> torch.Tensor:
            weights, ids = (
                given
                or fused_topk(
                    tokens, F.linear(tokens, m.router), problem.top_k, problem.renormalize
                )[:2]
            )
            return fused_experts(tokens, m.first, m.second, weights, ids)

        return call
