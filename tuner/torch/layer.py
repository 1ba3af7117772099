"""MoELayer: a module in the place of a transformers block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from tuner.errors import MoetuneError, UsageError
from tuner.host.arguments import require, shown
from tuner.loading import load
from tuner.problem import Problem
from tuner.torch.layouts import check_dense, layout_of
from tuner.torch.op import FORWARD_ONLY, answers, moe_block, text_of
from tuner.torch.packed_block import (
    Loaded,
    Loader,
    PackedBlock,
    Recipe,
    forget,
    loader_name,
    packed,
)

# torch's own, without types.
_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


class MoELayer(torch.nn.Module):
    """A layer in the place of a block: y [B, S, D], or (y, scores [B * S, k]), for x [B, S, D].

    It has the block's modules under their names, so the model's state, and the checkpoint that
    `save_pretrained` writes, are what they were. The kernels read a packed copy, which is made again
    when the tensors have changed (`load_state_dict`, `to`), and after a copy or an unpickling.
    Edits that torch does not count (`parameter.data`, a NumPy view) are not seen. A backward pass
    raises UsageError.
    """

    _held: PackedBlock | None

    def __init__(
        self, block: torch.nn.Module, model_type: str, load: Loader = load, place: str = ""
    ) -> None:
        super().__init__()
        vars(self).update({name: of for name, of in vars(block).items() if _is_shared(name)})
        self.training = block.training
        self.model_type = model_type
        self._block = (block,)  # a tuple: its modules are the model's once
        self._load = load
        self.place = place
        self._read()

    @classmethod
    def from_block(
        cls, block: torch.nn.Module, config: Any, load: Loader = load, place: str = ""
    ) -> MoELayer:
        """The layer of a transformers block.

        `config` is the model's (an object with `to_dict`, or what its config.json holds) and says the
        model type; all else is read from the block. The data type is that of the experts. `load`
        makes the layer, e.g. from a bundle. Errors begin with `place`, the block's name in its model.

        Raises UsageError for a model type that is not known or a block that is not on the CPU,
        WeightsError where it has other parameters than its type has, ProblemError where no kernel
        computes what it does.
        """
        require("block", block, torch.nn.Module)
        if not callable(load):
            raise UsageError(
                f"load: is {shown(load)}, must be a function of a Problem and its Weights"
            )
        model_type = model_type_of(config)
        with _named(place):
            layer = cls(block, model_type, load, place)
            layer._pack()
        return layer

    @property
    def block(self) -> torch.nn.Module:
        """The block whose place this is; it has the same modules."""
        (block,) = self._block
        block.training = self.training
        return block

    @property
    def layer(self) -> Loaded:
        """The layer of the tensors as they are now."""
        held = self._held
        if held is None or not held.is_of(self._tensors()):
            with _named(self.place):
                held = self._pack()
        return held.layer

    @property
    def problem(self) -> Problem:
        return self._recipe.problem

    def forward(self, hidden_states: torch.Tensor) -> Any:
        check_dense("hidden_states", hidden_states)
        tokens = hidden_states.reshape(-1, hidden_states.shape[-1])
        router = self._modules[self._router]
        if router is not None and router._forward_hooks:  # somebody records its logits
            router(tokens)
        if _is_recorded(hidden_states):
            y, scores = moe_block(tokens, self._tensors(), self._text)
        elif torch.is_grad_enabled():
            trained = [tensor for tensor in self._tensors() if tensor.requires_grad]
            y, scores = _ForwardOnly.apply(self._run, tokens, *trained[:1])  # type: ignore[no-untyped-call]
        else:
            y, scores = self._run(tokens)
        y = y.reshape(hidden_states.shape)
        return (y, scores) if self.scores else y

    def extra_repr(self) -> str:
        return self.problem.describe()

    def forget(self) -> None:
        """Drops the packed copy. The next call makes it again."""
        self._held = None
        forget({tensor.data_ptr() for tensor in self._tensors()})

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process, or is read from the modules again."""
        state = dict(vars(self))
        del state["_held"], state["_recipe"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._read()

    def _run(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.scores:
            return answers(self.layer(tokens, return_routing=True))
        return self.layer(tokens), None

    def _read(self) -> None:
        """Learns from the modules what they compute."""
        layout = layout_of(self.model_type)
        problem = layout.problem(self.block, self.model_type)
        recipe = self._recipe = Recipe(self.model_type, problem, loader_name(self._load))
        self._text = text_of(recipe)
        self._places = [(place.split(".")[:-1], place.split(".")[-1]) for place in recipe.names]
        self._router, self.scores = layout.router, layout.scores
        self._held = None

    def _pack(self) -> PackedBlock:
        self._read()
        held = self._held = packed(self._recipe, self._tensors())
        return held

    def _tensors(self) -> list[torch.Tensor]:
        """By the dictionaries of the modules: getattr would cost as much as a small layer."""
        found = []
        for parents, name in self._places:
            module: Any = self
            for parent in parents:
                module = module._modules[parent]
            tensor = module._parameters.get(name)
            found.append(module._buffers[name] if tensor is None else tensor)
        return found


class _ForwardOnly(torch.autograd.Function):
    """Fails where a gradient is asked for, of the tokens or of a weight, instead of leaving it out."""

    @staticmethod
    def forward(ctx: Any, run: Callable[[torch.Tensor], Any], *inputs: torch.Tensor) -> Any:
        return run(inputs[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        raise UsageError(FORWARD_ONLY)


def model_type_of(config: Any) -> str:
    """The `model_type` of a config, an object or what its config.json holds."""
    values = config.to_dict() if hasattr(config, "to_dict") else config
    require("config", values, Mapping, mend="give that of the model, model.config")
    model_type = values.get("model_type")
    layout_of(model_type)
    return str(model_type)


def _is_shared(name: str) -> bool:
    """Whether this of a block's attributes is the layer's, too: what is put there stays with the block."""
    return "_hooks" in name or name in ("_modules", "_parameters", "_buffers")


def _is_recorded(tensor: torch.Tensor) -> bool:
    """Whether the call becomes part of a graph, of torch's compiler or of a trace."""
    return torch.compiler.is_compiling() or _is_tracing() or type(tensor) is not torch.Tensor


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Says of which block an error is."""
    try:
        yield
    except MoetuneError as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:
        error.add_note(f"in the MoE block {place}")
        raise
