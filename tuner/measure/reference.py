"""What a MoE layer computes: the float64 reference.

It takes Weights that ``Weights.check`` returned, and x float32 [T, D]. The routing forms follow
the modeling files of Hugging Face transformers (src/transformers/models):

* softmax: mixtral/modeling_mixtral.py, olmoe/modeling_olmoe.py, qwen3_moe/modeling_qwen3_moe.py
* topk_softmax: granitemoe/modeling_granitemoe.py (GraniteMoeTopKGating),
  gpt_oss/modeling_gpt_oss.py (GptOssTopKRouter)
* sigmoid: deepseek_v3/modeling_deepseek_v3.py (DeepseekV3MoE.route_tokens_to_experts)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.errors import ProblemError
from tuner.problem import Problem
from tuner.problem.weights import Weights

Floats: TypeAlias = NDArray[np.floating[Any]]
Doubles: TypeAlias = NDArray[np.float64]
Routing: TypeAlias = tuple[NDArray[np.int32], Floats]


class Sizes(NamedTuple):
    """How large the numbers were that were added up to a token's output, [T] each.

    Attributes:
        down: the products of ``down`` and the hidden values.
        all: these, and what errors of products 1, as large as they, would make of them.
    """

    down: Doubles
    all: Doubles


_erf = np.frompyfunc(math.erf, 1, 1)


def route(
    problem: Problem, weights: Weights, x: Floats
) -> tuple[NDArray[np.int32], Doubles, Doubles]:
    """Choose k experts for each token of x [T, D], in float64.

    Returns:
        indices int32 [T, k] by falling score, ties to the lower index; their weights float64
        [T, k]; and scores float64 [T, E], what the choice was made on: with the correction bias
        where there is one, the logits for a softmax without, and not masked by group.

    Raises:
        ProblemError: x is not [T, D].
    """
    logits = _logits(problem, weights, x)
    raw = _scored(problem, logits)
    if problem.correction_bias:
        scores = raw + _wide(weights.correction_bias)
    else:
        # A softmax keeps the order of the logits, until it underflows.
        scores = logits if problem.score == "softmax" else raw
    indices = _best(scores, problem.top_k, _kept_by_group(problem, scores))
    return indices, _routing_weights(problem, np.take_along_axis(raw, indices, axis=1)), scores


def moe(problem: Problem, weights: Weights, x: Floats, routing: Routing | None = None) -> Doubles:
    """Return the layer's output y float64 [T, D], grouped by expert.

    ``routing`` is (indices [T, k], weights [T, k]), the experts of one token distinct; without it
    the layer routes for itself. Only one expert's weights are held in float64 at a time.

    Raises:
        ProblemError: x is not [T, D].
    """
    return moe_and_sizes(problem, weights, x, routing)[0]


def moe_and_sizes(
    problem: Problem, weights: Weights, x: Floats, routing: Routing | None = None
) -> tuple[Doubles, Sizes]:
    """Return what ``moe`` does, and the sizes [T] of what was added up for each token.

    A sum of products whose errors are independent and of one relative size errs by that share of the
    root of the sum of their squares, however small the sum is (Higham and Mary, "A New Approach to
    Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41(5), 2019). The squares of a product of
    a matrix and a vector are estimated from the norms of its rows, or columns, and that of the vector.

    Raises:
        ProblemError: x is not [T, D].
    """
    indices, chosen = routing if routing is not None else route(problem, weights, x)[:2]
    x, chosen = _wide(x), _wide(chosen)
    y = np.zeros((x.shape[0], problem.hidden))
    squares = np.zeros((2, x.shape[0]))
    if problem.shared_dim:
        matrices = (weights.shared_gate, weights.shared_up, weights.shared_down)
        y, squares = _expert(problem, x, matrices, (None, None, None))
    for expert, tokens, slots in _grouped(indices):
        out, own = _expert(problem, x[tokens], *_of_expert(weights, expert))
        share = chosen[tokens, slots]
        y[tokens] += out * share[:, None]
        squares[:, tokens] += own * share**2
    down, all_products = np.sqrt(squares)
    return y, Sizes(down, all_products)


def logit_sizes(problem: Problem, weights: Weights, x: Floats) -> Doubles:
    """Return the size [T] of what was added up for each token's logits, for the largest row of the router."""
    largest: Doubles = _size(_wide(x), _wide(weights.router)).max(axis=1)
    return largest


def group_scores(problem: Problem, scores: Doubles) -> Doubles:
    """Return what each group of experts counts, [T, num_groups]: its two best scores added.

    A group of one expert counts that one's score.
    """
    size = problem.num_experts // problem.num_groups
    groups = scores.reshape(scores.shape[0], problem.num_groups, size)
    best: Doubles = np.sort(groups, axis=2)[:, :, -2:].sum(axis=2)
    return best


def _wide(array: NDArray[Any]) -> Doubles:
    return array.astype(np.float64, copy=False)


def _logits(problem: Problem, weights: Weights, x: Floats) -> Doubles:
    if x.ndim != 2 or x.shape[1] != problem.hidden:
        raise ProblemError(
            f"x: has shape {list(x.shape)}, must be [T, {problem.hidden}]; one token a row"
        )
    logits: Doubles = _wide(x) @ _wide(weights.router).T
    return logits + _wide(weights.router_bias) if problem.router_bias else logits


def _scored(problem: Problem, logits: Doubles) -> Doubles:
    if problem.score == "softmax":
        return _softmax(logits)
    return _sigmoid(logits) if problem.score == "sigmoid" else logits


def _best(scores: Doubles, count: int, kept: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """Return the columns of the ``count`` greatest scores of each row, of the kept; ties to the lower."""
    dropped = np.zeros(scores.shape, bool) if kept is None else ~kept
    return np.lexsort((-scores, dropped), axis=1)[:, :count].astype(np.int32)


def _kept_by_group(problem: Problem, scores: Doubles) -> NDArray[np.bool_] | None:
    """Return which experts [T, E] are in a group that stays; None where there are no groups.

    transformers puts 0 where a group does not stay, which differs only where a kept expert's
    biased score is negative; DeepSeek's own inference/model.py puts -inf, as the published method
    says.
    """
    if problem.num_groups == 1:
        return None
    kept = _best(group_scores(problem, scores), problem.top_groups)
    stays = np.zeros((scores.shape[0], problem.num_groups), dtype=bool)
    np.put_along_axis(stays, kept, True, axis=1)
    return np.repeat(stays, problem.num_experts // problem.num_groups, axis=1)


def _routing_weights(problem: Problem, chosen: Doubles) -> Doubles:
    """Return the weights of the chosen scores (without correction bias) [T, k]."""
    if problem.score == "topk_softmax":
        chosen = _softmax(chosen)
    elif problem.renormalize:
        # The 1e-20 is DeepSeek's: sigmoid scores may all underflow.
        chosen = chosen / (chosen.sum(axis=1, keepdims=True) + 1e-20)
    return chosen * problem.routing_scale


def _grouped(
    indices: NDArray[np.int32],
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Yield (expert, its tokens, their slots in k) for each expert that has tokens."""
    order = np.argsort(indices, axis=None, kind="stable")
    experts, starts = np.unique(indices.ravel()[order], return_index=True)
    for expert, pairs in zip(experts.tolist(), np.split(order, starts[1:]), strict=False):
        tokens, slots = np.divmod(pairs, indices.shape[1])
        yield expert, tokens, slots


def _of_expert(weights: Weights, expert: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    matrices = (weights.gate, weights.up, weights.down)
    biases = (weights.gate_bias, weights.up_bias, weights.down_bias)
    return (
        tuple(None if array is None else array[expert] for array in matrices),
        tuple(None if array is None else array[expert] for array in biases),
    )


def _expert(
    problem: Problem, x: Doubles, matrices: tuple[Any, ...], biases: tuple[Any, ...]
) -> tuple[Doubles, Doubles]:
    """Return the expert's output [t, D], and the squares [2, t] of the sizes of `Sizes`."""
    up, down = map(_wide, matrices[1:])
    up_out, up_size = _linear(x, up, biases[1]), _size(x, up)
    gate_out, gate_size = up_out, up_size
    if problem.gated:
        gate = _wide(matrices[0])
        gate_out, gate_size = _linear(x, gate, biases[0]), _size(x, gate)
    hidden, error = _activate(problem, gate_out, up_out, gate_size, up_size)
    columns = np.einsum("df,df->f", down, down)
    own = hidden**2 @ columns
    return _linear(hidden, down, biases[2]), np.stack((own, own + error**2 @ columns))


def _size(x: Doubles, matrix: Any) -> Doubles:
    """Return, estimated, the root of the squares' sum of the products of x [t, D] and each row of a matrix."""
    rows = np.sqrt(np.einsum("fd,fd->f", matrix, matrix) / x.shape[1])
    return np.outer(np.linalg.norm(x, axis=1), rows)


def _linear(x: Doubles, matrix: Any, bias: Any) -> Doubles:
    out: Doubles = x @ _wide(matrix).T
    if bias is not None:
        out += _wide(bias)
    return out


def _activate(
    problem: Problem, gate: Doubles, up: Doubles, gate_size: Doubles, up_size: Doubles
) -> tuple[Doubles, Doubles]:
    """Return what goes into ``down``, and how far it moves where gate and up move by their sizes.

    relu reads ``up`` alone. The slope of all gates' functions is at most 1.13, taken as 1.
    """
    match problem.activation:
        case "swiglu":
            acted = gate * _sigmoid(gate)
        case "geglu":
            acted = _gelu(gate)
        case "geglu_tanh":
            acted = _gelu_tanh(gate)
        case "swiglu_clamped":
            gate = np.minimum(gate, problem.swiglu_limit)
            acted = gate * _sigmoid(gate * problem.swiglu_alpha)
            up = np.clip(up, -problem.swiglu_limit, problem.swiglu_limit) + 1
        case _:
            return np.maximum(up, 0), up_size
    return acted * up, np.hypot(up * gate_size, acted * up_size)


def _softmax(logits: Doubles) -> Doubles:
    greatest = logits.max(axis=1, keepdims=True, initial=-np.inf)
    powers: Doubles = np.exp(logits - greatest)
    shares: Doubles = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _sigmoid(x: Doubles) -> Doubles:
    with np.errstate(over="ignore"):  # exp(-x) is inf far below 0, and 1 / inf the right 0
        powers: Doubles = np.exp(-x)
    return 1 / (1 + powers)


def _gelu(x: Doubles) -> Doubles:
    """x/2 (1 + erf(x / sqrt 2)) (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415)."""
    erf: Doubles = np.asarray(_erf(x / math.sqrt(2)), np.float64)
    return x * (1 + erf) / 2


def _gelu_tanh(x: Doubles) -> Doubles:
    """The tanh form of the same paper, as torch's gelu(approximate="tanh") has it."""
    tanh: Doubles = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return x * (1 + tanh) / 2
