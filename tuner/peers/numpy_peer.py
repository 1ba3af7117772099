"""The NumPy peer: a MoE layer in plain float32 NumPy, grouped by expert, as fast as it will go.

Three forms, of which a race takes the fastest: BLAS's own threads on one expert after the other,
the same with all products transposed, and one expert per thread with BLAS single-threaded.
Weights are used as published (BLAS packs them itself); buffers are kept between calls.
"""

from __future__ import annotations

import ctypes
import math
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.peers.peer import Floats, Form, Peer, Routing
from tuner.problem import Problem
from tuner.problem.weights import Weights

_MAPS = Path("/proc/self/maps")
_SET_THREADS = ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads")


@dataclass(frozen=True)
class _Task:
    """Some tokens in one expert: matrices and biases (gate, up, down), and the tokens' weights."""

    matrices: Sequence[Any]
    biases: Sequence[Any]
    tokens: NDArray[np.intp]
    weights: Floats


class _Scratch:
    """Buffers of one thread for up to `tokens` tokens."""

    def __init__(self, problem: Problem, tokens: int) -> None:
        width = max(problem.expert_dim, problem.shared_dim)
        self.x = np.empty((tokens, problem.hidden), np.float32)
        self.y = np.empty((tokens, problem.hidden), np.float32)
        self.out = np.empty(tokens * problem.hidden, np.float32)
        self.gate = np.empty(tokens * width, np.float32)
        self.up = np.empty(tokens * width, np.float32)


def refusal(problem: Problem) -> str:
    """Why NumPy is no fair peer for a problem; empty where it is one."""
    if problem.dtype != "float32":
        return f"it has fast products in float32 alone, not in {problem.dtype}"
    return "it has no erf, so no fair geglu" if problem.activation == "geglu" else ""


class NumpyPeer:
    """One layer's weights, and the forms that run it."""

    def __init__(self, problem: Problem, weights: Weights, threads: int) -> None:
        self.problem, self.weights, self.threads = problem, weights, threads
        self._pool = ThreadPoolExecutor(max(1, threads - 1))
        self._scratch: list[_Scratch] = []
        self._set_blas_threads = _blas_threads()

    def forms(self) -> dict[str, Form]:
        """The forms by name; the last one only where BLAS lets its threads be set."""
        forms: dict[str, Form] = {
            "BLAS threads": lambda x, routing: self._one_by_one(x, routing, False),
            "BLAS threads, transposed": lambda x, routing: self._one_by_one(x, routing, True),
        }
        if self._set_blas_threads is not None and self.threads > 1:
            forms["a thread per expert"] = self._side_by_side
        return forms

    def _one_by_one(self, x: Floats, routing: Routing | None, transposed: bool) -> Floats:
        if self._set_blas_threads is not None:
            self._set_blas_threads(self.threads)
        (scratch,) = self._buffers(len(x), 1)
        scratch.y[:] = 0
        for task in self._tasks(x, routing, 1):
            _run(self.problem, task, x, scratch, transposed)
        return scratch.y

    def _side_by_side(self, x: Floats, routing: Routing | None) -> Floats:
        assert self._set_blas_threads is not None
        self._set_blas_threads(1)
        tasks: queue.SimpleQueue[_Task] = queue.SimpleQueue()
        # The largest first, so that no thread is left with a large one at the end.
        for task in sorted(self._tasks(x, routing, self.threads), key=lambda t: -len(t.tokens)):
            tasks.put(task)
        first, *others = self._buffers(len(x), self.threads)
        futures = [self._pool.submit(self._work, tasks, x, scratch) for scratch in others]
        self._work(tasks, x, first)
        for future, scratch in zip(futures, others, strict=True):
            future.result()
            first.y += scratch.y
        return first.y

    def _work(self, tasks: queue.SimpleQueue[_Task], x: Floats, scratch: _Scratch) -> None:
        scratch.y[:] = 0
        while True:
            try:
                task = tasks.get_nowait()
            except queue.Empty:
                return
            _run(self.problem, task, x, scratch, False)

    def _buffers(self, tokens: int, threads: int) -> list[_Scratch]:
        if len(self._scratch) < threads or len(self._scratch[0].x) != tokens:
            self._scratch = [_Scratch(self.problem, tokens) for _ in range(threads)]
        return self._scratch[:threads]

    def _tasks(self, x: Floats, routing: Routing | None, parts: int) -> list[_Task]:
        """The experts that have tokens, and the shared expert cut by tokens into parts."""
        w = self.weights
        indices, chosen = routing or route(self.problem, w, x)
        order = np.argsort(indices, axis=None, kind="stable")
        tokens, sorted_weights = order // self.problem.top_k, chosen.ravel()[order]
        ends = np.cumsum(np.bincount(indices.ravel(), minlength=self.problem.num_experts)).tolist()
        tasks = []
        for expert, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                matrices = [m if m is None else m[expert] for m in (w.gate, w.up, w.down)]
                arrays = (w.gate_bias, w.up_bias, w.down_bias)
                biases = [b if b is None else b[expert] for b in arrays]
                pairs = slice(start, end)
                tasks.append(_Task(matrices, biases, tokens[pairs], sorted_weights[pairs]))
        if self.problem.shared_dim:
            matrices = [w.shared_gate, w.shared_up, w.shared_down]
            for part in np.array_split(np.arange(len(x)), min(parts, len(x))):
                tasks.append(_Task(matrices, [None] * 3, part, np.ones(len(part), np.float32)))
        return tasks


def route(problem: Problem, weights: Weights, x: Floats) -> Routing:
    """Choose k experts for each token, in no order: indices [T, k] and their weights [T, k]."""
    scores: Floats = x @ weights.router.T
    if problem.router_bias:
        scores += weights.router_bias
    if problem.score == "softmax":
        _softmax(scores)
    elif problem.score == "sigmoid":
        np.negative(scores, out=scores)
        np.exp(scores, out=scores)
        scores += 1
        np.reciprocal(scores, out=scores)
    biased = scores + weights.correction_bias if problem.correction_bias else scores
    indices = _best(_masked_by_group(problem, biased), problem.top_k)
    chosen = np.take_along_axis(scores, indices, axis=1)
    if problem.score == "topk_softmax":
        _softmax(chosen)
    elif problem.renormalize:
        chosen /= chosen.sum(axis=1, keepdims=True) + np.float32(1e-20)
    if problem.routing_scale != 1:
        chosen *= np.float32(problem.routing_scale)
    return indices, chosen


def _best(scores: Floats, count: int) -> NDArray[np.intp]:
    if count == scores.shape[1]:
        return np.broadcast_to(np.arange(count), scores.shape)
    return np.argpartition(scores, -count, axis=1)[:, -count:]


def _masked_by_group(problem: Problem, scores: Floats) -> Floats:
    if problem.num_groups == 1:
        return scores
    groups = scores.reshape(len(scores), problem.num_groups, -1)
    kept = _best(np.sort(groups, axis=2)[:, :, -2:].sum(axis=2), problem.top_groups)
    masked = np.full_like(groups, -np.inf)
    rows = np.arange(len(scores))[:, None]
    masked[rows, kept] = groups[rows, kept]
    return masked.reshape(scores.shape)


def _softmax(scores: Floats) -> None:
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)


def _run(problem: Problem, task: _Task, x: Floats, scratch: _Scratch, transposed: bool) -> None:
    """Adds one task's share to scratch.y."""
    count = len(task.tokens)
    gate, up, down = task.matrices
    mine = np.take(x, task.tokens, axis=0, out=scratch.x[:count], mode="clip")
    hidden = _linear(mine, up, task.biases[1], scratch.up, transposed)
    gated = _linear(mine, gate, task.biases[0], scratch.gate, transposed) if problem.gated else None
    _activate(problem, gated, hidden)
    if task.biases[2] is None:  # the routing weight goes in where it is cheaper
        hidden *= task.weights[:, None]
    out = _linear(hidden, down, task.biases[2], scratch.out, transposed)
    if task.biases[2] is not None:
        out *= task.weights[:, None]
    if count == len(x):  # all tokens, in order: no need to gather and scatter
        scratch.y += out
    else:
        scratch.y[task.tokens] += out


def _linear(x: Floats, matrix: Any, bias: Any, buffer: Floats, transposed: bool) -> Floats:
    """x [n, D] times matrix [F, D], as [n, F]; transposed it lies in memory as [F, n].

    Which way round BLAS is faster depends on the sizes.
    """
    count, width = len(x), len(matrix)
    space = buffer[: count * width]
    if transposed:
        out = np.matmul(matrix, x.T, out=space.reshape(width, count)).T
    else:
        out = np.matmul(x, matrix.T, out=space.reshape(count, width))
    if bias is not None:
        out += bias
    return out


def _activate(problem: Problem, gate: Any, up: Floats) -> None:
    """Leaves the activation in `up`, and anything in `gate`."""
    match problem.activation:
        case "relu":
            np.maximum(up, 0, out=up)
        case "geglu_tanh":
            inner = gate * gate
            inner *= 0.044715
            inner += 1
            inner *= gate
            inner *= math.sqrt(2 / math.pi)
            np.tanh(inner, out=inner)
            inner += 1
            gate *= 0.5
            up *= gate
            up *= inner
        case _:
            _gated_sigmoid(problem, gate, up)


def _gated_sigmoid(problem: Problem, gate: Floats, up: Floats) -> None:
    """up * gate * sigmoid(alpha gate), clamped and with up + 1 for gpt-oss."""
    if problem.activation == "swiglu_clamped":
        np.minimum(gate, problem.swiglu_limit, out=gate)
        np.clip(up, -problem.swiglu_limit, problem.swiglu_limit, out=up)
        up += 1
    up *= gate
    gate *= -(problem.swiglu_alpha or 1.0)
    np.exp(gate, out=gate)
    gate += 1
    up /= gate


def _blas_threads() -> Callable[[int], object] | None:
    """The function that sets the threads of NumPy's OpenBLAS; None where NumPy has another BLAS."""
    np.ones((2, 2), np.float32) @ np.ones((2, 2), np.float32)
    if not _MAPS.exists():
        return None
    paths = {line.split()[-1] for line in _MAPS.read_text().splitlines() if "openblas" in line}
    for path in sorted(paths):
        library = ctypes.CDLL(path)
        for name in _SET_THREADS:
            if hasattr(library, name):
                function: Callable[[int], object] = getattr(library, name)
                return function
    return None


PEER = Peer(
    name="numpy",
    title="NumPy",
    make=NumpyPeer,
    modules=("numpy",),
    copies=1,
    refusal=refusal,
    rank=0,
)
