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
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.errors import ProblemError
from tuner.problem import Problem
from tuner.problem.weights import Weights

Floats: TypeAlias = NDArray[np.floating[Any]]
Doubles: TypeAlias = NDArray[np.float64]
Routing: TypeAlias = tuple[NDArray[np.int32], Floats]

_erf = np.frompyfunc(math.erf, 1, 1)


def route(
    problem: Problem, weights: Weights, x: Floats
) -> tuple[NDArray[np.int32], Doubles, Doubles]:
    """Choose k experts for each token of x [T, D], in float64.

    Returns:
        indices int32 [T, k] by falling score, ties to the lower index; their weights float64
        [T, k]; and scores float64 [T, E], what the choice was made on: with the correction bias
        where there is one, the logits for topk_softmax, and not masked by group.

    Raises:
        ProblemError: x is not [T, D].
    """
    raw = _raw_scores(problem, weights, x)
    scores = raw + _wide(weights.correction_bias) if problem.correction_bias else raw
    indices = _best(_masked_by_group(problem, scores), problem.top_k)
    return indices, _routing_weights(problem, np.take_along_axis(raw, indices, axis=1)), scores


def moe(problem: Problem, weights: Weights, x: Floats, routing: Routing | None = None) -> Doubles:
    """Return the layer's output y float64 [T, D], grouped by expert.

    ``routing`` is (indices [T, k], weights [T, k]), the experts of one token distinct; without it
    the layer routes for itself. Only one expert's weights are held in float64 at a time.

    Raises:
        ProblemError: x is not [T, D].
    """
    indices, chosen = routing if routing is not None else route(problem, weights, x)[:2]
    x, chosen = _wide(x), _wide(chosen)
    y = np.zeros((x.shape[0], problem.hidden))
    if problem.shared_dim:
        matrices = (weights.shared_gate, weights.shared_up, weights.shared_down)
        y += _expert(problem, x, matrices, (None, None, None))
    for expert, tokens, slots in _grouped(indices):
        out = _expert(problem, x[tokens], *_of_expert(weights, expert))
        y[tokens] += out * chosen[tokens, slots, None]
    return y


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


def _raw_scores(problem: Problem, weights: Weights, x: Floats) -> Doubles:
    if x.ndim != 2 or x.shape[1] != problem.hidden:
        raise ProblemError(
            f"x: has shape {list(x.shape)}, must be [T, {problem.hidden}]; one token a row"
        )
    logits: Doubles = _wide(x) @ _wide(weights.router).T
    if problem.router_bias:
        logits = logits + _wide(weights.router_bias)
    if problem.score == "softmax":
        return _softmax(logits)
    return _sigmoid(logits) if problem.score == "sigmoid" else logits


def _best(scores: Doubles, count: int) -> NDArray[np.int32]:
    """Return the columns of the ``count`` greatest scores of each row; ties to the lower one."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count].astype(np.int32)


def _masked_by_group(problem: Problem, scores: Doubles) -> Doubles:
    """Put -inf where an expert's group does not stay.

    transformers puts 0 there, which differs only where a kept expert's biased score is negative;
    DeepSeek's own inference/model.py puts -inf, as the published method says.
    """
    if problem.num_groups == 1:
        return scores
    kept = _best(group_scores(problem, scores), problem.top_groups)
    stays = np.zeros((scores.shape[0], problem.num_groups), dtype=bool)
    np.put_along_axis(stays, kept, True, axis=1)
    size = problem.num_experts // problem.num_groups
    return np.where(np.repeat(stays, size, axis=1), scores, -np.inf)


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
) -> Doubles:
    gate, up, down = matrices
    up_out = _linear(x, up, biases[1])
    gate_out = _linear(x, gate, biases[0]) if problem.gated else up_out
    return _linear(_activate(problem, gate_out, up_out), down, biases[2])


def _linear(x: Doubles, matrix: Any, bias: Any) -> Doubles:
    out: Doubles = x @ _wide(matrix).T
    if bias is not None:
        out += _wide(bias)
    return out


def _activate(problem: Problem, gate: Doubles, up: Doubles) -> Doubles:
    """Return what goes into ``down``; relu reads ``up`` alone."""
    match problem.activation:
        case "swiglu":
            return gate * _sigmoid(gate) * up
        case "geglu":
            return _gelu(gate) * up
        case "geglu_tanh":
            return _gelu_tanh(gate) * up
        case "swiglu_clamped":
            gate = np.minimum(gate, problem.swiglu_limit)
            up = np.clip(up, -problem.swiglu_limit, problem.swiglu_limit)
            return gate * _sigmoid(gate * problem.swiglu_alpha) * (up + 1)
        case _:
            return np.maximum(up, 0)


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
