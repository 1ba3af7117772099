"""The op of graphs: what torch.compile and torch.export put in the place of a block's Python code.

`moetune::moe_block` takes the tokens, the block's tensors and a text that says how to make a layer of
them. So an exported program that was saved runs in another process, where its kernels are packed again.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import torch

from tuner.errors import UsageError
from tuner.host import json_text
from tuner.problem import Problem
from tuner.torch.packed_block import Recipe, packed_for_graph

FORWARD_ONLY = (
    "MoELayer: runs forward only; train the model with its own blocks (tuner.torch.restore)"
)


def text_of(recipe: Recipe) -> str:
    """A recipe as graphs hold it."""
    return json.dumps({**vars(recipe), "problem": recipe.problem.key}, sort_keys=True)


@functools.cache
def _recipe(text: str, dtype: torch.dtype) -> Recipe:
    values = json_text.parse(text, "the recipe of a graph")
    problem = Problem.from_key(values.pop("problem"), values["model_type"])
    name = str(dtype).removeprefix("torch.")
    return Recipe(**values, problem=problem.replace(dtype=name, weight_dtype=name))


@torch.library.custom_op(
    "moetune::moe_block",
    mutates_args=(),
    schema="(Tensor tokens, Tensor[] tensors, str recipe) -> (Tensor, Tensor)",
)
def moe_block(tokens: Any, tensors: Any, recipe: Any) -> Any:
    """y [T, D] and the weights of the chosen experts [T, k], both in the type of the tokens."""
    block = packed_for_graph(_recipe(recipe, _dtype(recipe, tensors)), tensors)
    return answers(block.layer(tokens, return_routing=True))


def answers(routed: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer says with its routing, as a block returns it."""
    y, _, weights = routed
    return y, weights.to(y.dtype)


def _dtype(recipe: str, tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """Of the experts: a graph's tensors may have changed it since."""
    names = _names(recipe)
    return tensors[names.index("experts.down_proj")].dtype


@functools.cache
def _names(recipe: str) -> list[str]:
    return _recipe(recipe, torch.float32).names


@functools.cache
def _top_k(recipe: str) -> int:
    return _recipe(recipe, torch.float32).problem.top_k


@moe_block.register_fake
def _(tokens: Any, tensors: Any, recipe: Any) -> Any:
    return tokens.new_empty(tokens.shape), tokens.new_empty((tokens.shape[0], _top_k(recipe)))


@torch.library.custom_op(
    "moetune::no_gradient", mutates_args=(), schema="(Tensor gradient, Tensor[] inputs) -> Tensor[]"
)
def no_gradient(gradient: Any, inputs: Any) -> Any:
    """Fails where a gradient is asked for; an op of its own, so that graphs may hold it."""
    raise UsageError(FORWARD_ONLY)


@no_gradient.register_fake
def _(gradient: Any, inputs: Any) -> Any:
    return [torch.empty_like(tensor) for tensor in inputs]


def _keep_inputs(ctx: Any, inputs: Any, output: Any) -> None:
    tokens, tensors, _ = inputs
    ctx.save_for_backward(tokens, *tensors)


def _backward(ctx: Any, *gradients: Any) -> Any:
    tokens, *tensors = no_gradient(gradients[0], list(ctx.saved_tensors))
    return tokens, tensors, None


moe_block.register_autograd(_backward, setup_context=_keep_inputs)
