"""Layouts: where the blocks of a model type keep their parameters, and what they say of their routing.

The names are those of transformers 5 (transformers/models/*/modeling_*.py), whose experts are fused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tuner.errors import UsageError, WeightsError
from tuner.problem import Problem
from tuner.problem.arrays import to_numpy
from tuner.problem.weights import Weights
from tuner.torch.activations import activation_of

_GATE_UP = "experts.gate_up_proj"
_DOWN = "experts.down_proj"


@dataclass(frozen=True)
class BlockLayout:
    """Where the blocks of a model type keep their parameters, what they compute, and what they return.

    The experts are fused: `experts.gate_up_proj` [E, 2F, D], the rows of gate first, and
    `experts.down_proj` [E, D, F]. `turned` blocks hold the transposes, [E, D, 2F] with the columns of
    gate and up in turns, and [E, F, D]; their biases [E, 2F] take turns, too.

    Attributes:
        plain: field of Weights -> parameter or buffer that has its layout.
        read: field of Problem -> attribute of the block that decides it.
        fixed: fields of Problem that the code of the block decides.
        activations: the modules of the block that are its activation; none where it is fixed.
        gate_up_bias: [E, 2F]; empty where there is none.
        scores: the block returns (y, weights of the chosen experts [B * S, k]).
    """

    plain: Mapping[str, str]
    read: Mapping[str, str]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    activations: tuple[str, ...] = ("experts.act_fn",)
    gate_up_bias: str = ""
    turned: bool = False
    scores: bool = False
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        names = {_GATE_UP, _DOWN, self.gate_up_bias, *self.plain.values()} - {""}
        object.__setattr__(self, "names", frozenset(names))

    @property
    def router(self) -> str:
        """The module of the block that makes the router's logits."""
        return self.plain["router"].rpartition(".")[0]

    def problem(self, block: torch.nn.Module, name: str) -> Problem:
        """What the block computes: from its tensors and its modules, whatever the model's config says.

        Raises WeightsError where it is no block of this layout, ProblemError where it computes what
        no kernel does.
        """
        tensors = tensors_of(block)
        self._check_names(block, tensors, name)
        experts, hidden = _shape(tensors, self.plain["router"], 2)
        values = {field: attribute(block, place) for field, place in self.read.items()}
        values |= {"hidden": hidden, "num_experts": experts, **self.fixed}
        values["expert_dim"] = _shape(tensors, _DOWN, 3)[1 if self.turned else 2]
        if self.activations:
            values["activation"] = self._activation(block)
        if "shared_up" in self.plain:
            values["shared_dim"] = _shape(tensors, self.plain["shared_up"], 2)[0]
        dtype = str(tensors[_DOWN].dtype).removeprefix("torch.")
        return Problem(**values, dtype=dtype, name=name)

    def weights(self, tensors: Mapping[str, torch.Tensor]) -> Weights:
        """The arrays of a block; those that are not turned share its memory.

        Raises UsageError for a tensor that is not plain memory of the CPU.
        """
        for name in sorted(self.names):
            _check_plain(name, tensors[name])
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

    def _activation(self, block: torch.nn.Module) -> str:
        """The one activation of all experts."""
        found = {place: activation_of(attribute(block, place), place) for place in self.activations}
        if len(set(found.values())) > 1:
            both = ", ".join(f"{place} is {name}" for place, name in found.items())
            raise WeightsError(f"{type(block).__name__}: {both}; a kernel has one activation")
        return next(iter(found.values()))

    def _check_names(
        self, block: torch.nn.Module, tensors: Mapping[str, torch.Tensor], model_type: str
    ) -> None:
        """Refuse a block that has other parameters: adapters, or another version of transformers."""
        odd = ", ".join(sorted(set(tensors) ^ self.names))
        if odd:
            raise WeightsError(
                f"{type(block).__name__}: lacks or should not have {odd}; a {model_type} block "
                f"has {', '.join(sorted(self.names))} (transformers 5)"
            )


_ROUTER = {"router": "gate.weight"}
_TOP_K = {"top_k": "gate.top_k"}
_NORMALIZED = BlockLayout(_ROUTER, {**_TOP_K, "renormalize": "gate.norm_topk_prob"})

# Model type -> layout.
LAYOUTS: dict[str, BlockLayout] = {
    "mixtral": BlockLayout(_ROUTER, _TOP_K),
    "olmoe": _NORMALIZED,
    "qwen3_moe": _NORMALIZED,
    "granitemoe": BlockLayout(
        {"router": "router.weight"}, {"top_k": "router.top_k"}, {"score": "topk_softmax"}
    ),
    "gpt_oss": BlockLayout(
        {
            "router": "router.weight",
            "router_bias": "router.bias",
            "down_bias": "experts.down_proj_bias",
        },
        {
            "top_k": "router.top_k",
            "swiglu_limit": "experts.limit",
            "swiglu_alpha": "experts.alpha",
        },
        {
            "activation": "swiglu_clamped",
            "score": "topk_softmax",
            "router_bias": True,
            "expert_bias": True,
        },
        activations=(),
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
        },
        {
            **_TOP_K,
            "renormalize": "gate.norm_topk_prob",
            "routing_scale": "gate.routed_scaling_factor",
            "num_groups": "gate.num_group",
            "top_groups": "gate.topk_group",
        },
        {"score": "sigmoid", "correction_bias": True},
        activations=("experts.act_fn", "shared_experts.act_fn"),
    ),
}


def layout_of(model_type: object) -> BlockLayout:
    """Raises UsageError for a model type that is not known."""
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        known = ", ".join(sorted(LAYOUTS))
        raise UsageError(
            f"model_type={model_type!r}: no layout of its blocks is known; there are {known}"
        )
    return LAYOUTS[model_type]


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def attribute(block: torch.nn.Module, place: str) -> Any:
    """The attribute of a block at a dotted place."""
    found: Any = block
    for name in place.split("."):
        if not hasattr(found, name):
            raise WeightsError(
                f"{type(block).__name__}: has no {place}; give a block of transformers 5"
            )
        found = getattr(found, name)
    return found


def check_dense(name: str, tensor: torch.Tensor) -> None:
    """Refuse what is no memory of the CPU, or not all of its numbers."""
    if tensor.device.type != "cpu":
        raise UsageError(f"{name}: is on {tensor.device}, must be on the CPU; move the model there")
    if tensor.layout is not torch.strided:
        raise UsageError(f"{name}: is {tensor.layout}, must be dense; call its to_dense()")


def _check_plain(name: str, tensor: torch.Tensor) -> None:
    """Refuse quantized and distributed tensors, whose memory is not what their type says."""
    check_dense(name, tensor)
    kind = type(tensor.data)
    if kind is not torch.Tensor:
        raise UsageError(
            f"{name}: is a {kind.__name__}, must be a plain tensor; give the model as it was before"
        )


def _shape(tensors: Mapping[str, torch.Tensor], name: str, axes: int) -> tuple[int, ...]:
    shape = tuple(tensors[name].shape)
    if len(shape) != axes:
        raise WeightsError(f"{name}: has shape {list(shape)}, must have {axes} axes")
    return shape
