"""MoE blocks of Hugging Face transformers, run by moetune's kernels. Needs torch; forward only, on CPUs.

`MoELayer.from_block` reads a block's parameters by their names, as transformers 5 has them (fused
experts), and returns what the block returns. `replace` does so with all blocks of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch

from tuner.errors import UsageError, WeightsError
from tuner.loading import load
from tuner.problem import Problem
from tuner.problem.arrays import to_numpy
from tuner.problem.weights import Weights
from tuner.runtime.layer import Layer

Loader: TypeAlias = Callable[[Problem, Weights], Layer]

_GATE_UP = "experts.gate_up_proj"
_DOWN = "experts.down_proj"


@dataclass(frozen=True)
class BlockLayout:
    """Where the blocks of a model type keep their parameters, and what they return.

    The experts are fused: `experts.gate_up_proj` [E, 2F, D], the rows of gate first, and
    `experts.down_proj` [E, D, F]. `turned` blocks hold the transposes, [E, D, 2F] with the columns of
    gate and up in turns, and [E, F, D]; their biases [E, 2F] take turns, too.

    Attributes:
        plain: field of Weights -> parameter or buffer that has its layout.
        gate_up_bias: [E, 2F]; empty where there is none.
        scores: the block returns (y, weights of the chosen experts [B * S, k]).
    """

    plain: Mapping[str, str]
    gate_up_bias: str = ""
    turned: bool = False
    scores: bool = False
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {_GATE_UP, _DOWN, self.gate_up_bias, *self.plain.values()} - {""}
        object.__setattr__(self, "names", frozenset(names))

    def weights(self, tensors: Mapping[str, torch.Tensor]) -> Weights:
        """The arrays of a block; those that are not turned share its memory."""
        array = {name: to_numpy(tensors[name]) for name in self.names}
        gate_up, down = array[_GATE_UP], array[_DOWN]
        if self.turned:
            gate_up, down = gate_up.swapaxes(1, 2), down.swapaxes(1, 2)
        found = {name: array[place] for name, place in self.plain.items()}
        found["gate"], found["up"] = self._halves(gate_up)
        if self.gate_up_bias:
            found["gate_bias"], found["up_bias"] = self._halves(array[self.gate_up_bias])
        return Weights(**found, down=down)

    def _halves(self, both: np.ndarray[Any, Any]) -> tuple[Any, Any]:
        """Gate's and up's rows of [E, 2F, ...]."""
        if self.turned:
            return both[:, ::2], both[:, 1::2]
        half = both.shape[1] // 2
        return both[:, :half], both[:, half:]


_GATE = BlockLayout({"router": "gate.weight"})

# Model type -> layout, from transformers/models/*/modeling_*.py of transformers 5.
LAYOUTS: dict[str, BlockLayout] = {
    "mixtral": _GATE,
    "olmoe": _GATE,
    "qwen3_moe": _GATE,
    "granitemoe": BlockLayout({"router": "router.weight"}),
    "gpt_oss": BlockLayout(
        {
            "router": "router.weight",
            "router_bias": "router.bias",
            "down_bias": "experts.down_proj_bias",
        },
        gate_up_bias="experts.gate_up_proj_bias",
        turned=True,
        scores=True,
    ),
    "deepseek_v3": BlockLayout(
        {
            "router": "gate.weight",
            "correction_bias": "gate.e_score_correction_bias",
            "shared_gate": "shared_experts.gate_proj.weight",
            "shared_up": "shared_experts.up_proj.weight",
            "shared_down": "shared_experts.down_proj.weight",
        }
    ),
}


class MoELayer(torch.nn.Module):
    """A loaded layer in the place of a block: y [B, S, D], or (y, scores [B * S, k]), for x [B, S, D].

    It has no parameters: the packed weights belong to `layer`, are not in the model's state, and
    neither move nor change their type with `model.to`. A backward pass through it raises UsageError.
    """

    def __init__(self, layer: Layer, scores: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.scores = scores

    @classmethod
    def from_block(cls, block: torch.nn.Module, config: Any, load: Loader = load) -> MoELayer:
        """The layer of a transformers block.

        `config` is the model's (an object with `to_dict`, or what its config.json holds). The
        data type is that of the experts. `load` makes the layer, e.g. from a bundle.

        Raises UsageError for a model type that is not known or a block that is not on the CPU,
        WeightsError where it has other parameters than its type has, ProblemError where the config
        is incomplete.
        """
        values = _values(config)
        layout = _layout(values)
        tensors = _tensors(block)
        if set(tensors) != layout.names:
            odd = ", ".join(sorted(set(tensors) ^ layout.names))
            raise WeightsError(
                f"{type(block).__name__}: lacks or should not have {odd}; a {values['model_type']} block "
                f"has {', '.join(sorted(layout.names))} (transformers 5)"
            )
        for name, tensor in tensors.items():
            _check_on_cpu(name, tensor)
        dtype = str(tensors[_GATE_UP].dtype).removeprefix("torch.")
        problem = Problem.from_hf_config(values, dtype)
        return cls(load(problem, layout.weights(tensors)), layout.scores)

    def forward(self, hidden_states: torch.Tensor) -> Any:
        _check_on_cpu("hidden_states", hidden_states)
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        y, scores = _ForwardOnly.apply(tokens, self.layer)  # type: ignore[no-untyped-call]
        y = y.reshape(hidden_states.shape)
        return (y, scores) if self.scores else y

    def extra_repr(self) -> str:
        return self.layer.problem.describe()


class _ForwardOnly(torch.autograd.Function):
    """Fails where a gradient is asked for, instead of leaving it out."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
        y, _, weights = layer(tokens, return_routing=True)
        return y, weights.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise UsageError("MoELayer: runs forward only; train the model with its own blocks")


def replace(model: torch.nn.Module, load: Loader = load) -> list[str]:
    """Puts a MoELayer in the place of every MoE block of a transformers model; their names.

    Blocks go one by one, so that the memory beyond the model's own is one block's. Layers of one
    problem share their kernels. `load` is as in `MoELayer.from_block`.

    Raises UsageError for a model type that is not known, and where no block is found.
    """
    values = _values(model.config)
    layout = _layout(values)
    names = [
        name for name, module in model.named_modules() if set(_tensors(module)) == layout.names
    ]
    if not names:
        raise UsageError(
            f"{type(model).__name__}: no MoE block is found in this {values['model_type']} model; "
            f"its blocks have {', '.join(sorted(layout.names))} (transformers 5)"
        )
    for name in names:
        block = model.get_submodule(name)
        model.set_submodule(name, MoELayer.from_block(block, values, load))
    return names


def _tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_on_cpu(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type != "cpu":
        raise UsageError(f"{name}: is on {tensor.device}, must be on the CPU; move the model there")


def _values(config: Any) -> Mapping[str, Any]:
    values: Mapping[str, Any] = config.to_dict() if hasattr(config, "to_dict") else config
    return values


def _layout(values: Mapping[str, Any]) -> BlockLayout:
    model_type = values.get("model_type")
    if model_type not in LAYOUTS:
        known = ", ".join(sorted(LAYOUTS))
        raise UsageError(
            f"model_type={model_type!r}: no layout of its blocks is known; there are {known}"
        )
    return LAYOUTS[model_type]
