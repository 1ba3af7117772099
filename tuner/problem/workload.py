"""Workload: what a layer is asked to do at run time, and the work that this means.

A load says how tokens spread over the experts: ``uniform``, ``zipf:S`` (expert r, from 0, is
drawn with probability proportional to 1 / (r + 1)**S), ``onehot`` (every token goes to expert 0
and to k - 1 others) or ``trace:DIGEST`` (as in calls that were recorded: ``tuner.problem.trace_load``).
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tuner.errors import ProblemError
from tuner.host.arguments import require, shown
from tuner.problem import trace_load
from tuner.problem.dtypes import DTYPES
from tuner.problem.problem import Problem

# What a kernel counts tokens in is a number of 64 bits; of their products with sizes, too.
MOST_TOKENS = (1 << 31) - 1


@dataclass(frozen=True)
class Load:
    """A parsed load: its kind and, for zipf, its exponent, for trace its digest."""

    kind: str
    exponent: float = 0.0
    digest: str = ""

    def __str__(self) -> str:
        if self.kind == "trace":
            return f"trace:{self.digest}"
        return f"{self.kind}:{self.exponent:g}" if self.kind == "zipf" else self.kind


def parse_load(text: str) -> Load:
    """Read ``uniform``, ``zipf:S``, ``onehot`` or ``trace:DIGEST``.

    Raises:
        ProblemError: any other text, or S not a finite number of at least 0.
    """
    require("load", text, str)
    kind, colon, exponent = text.partition(":")
    if kind in ("uniform", "onehot") and not colon:
        return Load(kind)
    if kind == "trace" and re.fullmatch("[0-9a-f]{8}", exponent):
        return Load(kind, digest=exponent)
    try:
        value = float(exponent) if kind == "zipf" else math.nan
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ProblemError(
            f"load={text!r}: not known; use uniform, onehot or zipf:S with S at least 0 (zipf:1.2), "
            "or trace:DIGEST"
        )
    return Load(kind, value)


@dataclass(frozen=True)
class Workload:
    """Number of tokens T and the load over the experts, kept in its shortest spelling.

    Raises:
        ProblemError: fewer than 0 tokens, or a load that is not known.
    """

    tokens: int
    load: str = "uniform"

    def __post_init__(self) -> None:
        object.__setattr__(self, "load", str(parse_load(self.load)))
        mend = "give the number of tokens in one call"
        try:
            tokens = operator.index(self.tokens)
        except TypeError:
            told = shown(self.tokens)
            raise ProblemError(f"tokens={told}: must be a whole number; {mend}") from None
        if tokens < 0:
            raise ProblemError(f"tokens={tokens}: must be at least 0; {mend}")
        if tokens > MOST_TOKENS:
            raise ProblemError(f"tokens={shown(tokens)}: is more than any call has; {mend}")
        object.__setattr__(self, "tokens", tokens)


def route_by_load(
    problem: Problem, workload: Workload, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Draw a routing that has the workload's load, whatever the router would say.

    k distinct experts per token. The expert groups of grouped choice are not kept: a load is about
    the expert products only.

    Returns:
        indices int32 [T, k] in the order drawn, and positive weights float32 [T, k], in falling
        order, that sum to ``problem.routing_scale``.
    """
    rng = np.random.default_rng(seed)
    load = parse_load(workload.load)
    if load.kind == "trace":
        indices = _recorded(problem, load, workload.tokens, rng)
    else:
        indices = _gumbel(problem, load, workload.tokens, rng)
    weights = -np.sort(-rng.uniform(0.5, 1.5, indices.shape), axis=1)
    weights *= problem.routing_scale / weights.sum(axis=1, keepdims=True)
    return indices.astype(np.int32, order="C"), weights.astype(np.float32)


def _gumbel(
    problem: Problem, load: Load, tokens: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """k distinct experts per token, drawn one after the other without replacement by the Gumbel
    top-k trick (Kool et al. 2019, https://arxiv.org/abs/1903.06059)."""
    shape = (tokens, problem.num_experts)
    keys = rng.gumbel(size=shape) - load.exponent * np.log(np.arange(1, shape[1] + 1))
    if load.kind == "onehot":
        keys[:, 0] = np.inf
    return np.argsort(-keys, axis=1, kind="stable")[:, : problem.top_k]


def _recorded(
    problem: Problem, load: Load, tokens: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As a recorded call was routed. Raises ProblemError when its layer has other experts."""
    found = trace_load.find(load.digest)
    if (found.num_experts, found.top_k) != (problem.num_experts, problem.top_k):
        raise ProblemError(
            f"load={load}: was recorded with {found.num_experts} experts, {found.top_k} a token, "
            f"not {problem.num_experts} and {problem.top_k}; record one of this model"
        )
    return found.draw(tokens, rng)


def pairs_per_expert(problem: Problem, indices: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return how many (token, expert) pairs of ``indices`` [T, k] each expert has, int64 [E]."""
    return np.bincount(indices.ravel(), minlength=problem.num_experts).astype(np.int64)


def flops(problem: Problem, counts: NDArray[np.int64], tokens: int) -> int:
    """Return the useful operations of one call (a multiply and an add are two).

    The two or three products of each (token, expert) pair in ``counts`` [E], the shared expert,
    and the router: 2 * T * E * D.
    """
    router = 2 * problem.num_experts * problem.hidden
    return int(counts.sum()) * problem.flops_per_pair + tokens * (
        problem.shared_flops_per_token + router
    )


def weight_bytes_read(problem: Problem, counts: NDArray[np.int64]) -> int:
    """Return the bytes that one call must move at least; 0 without tokens.

    The weights and biases of each expert that has a pair in ``counts`` [E], of the shared expert
    and of the router once each, and the activations [T, D] in and out once.
    """
    tokens = int(counts.sum()) // problem.top_k
    if tokens == 0:
        return 0
    active = int(np.count_nonzero(counts))
    weights = active * problem.expert_weight_bytes
    weights += problem.shared_weight_bytes + problem.router_weight_bytes
    return weights + 2 * tokens * problem.hidden * DTYPES[problem.dtype].bytes
