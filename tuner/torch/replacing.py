"""Replacing: all MoE blocks of a model at once, or none, and back."""

from __future__ import annotations

from typing import Any

import torch

from tuner.errors import UsageError
from tuner.host.arguments import require
from tuner.loading import load
from tuner.torch.layer import MoELayer, model_type_of
from tuner.torch.layouts import layout_of, tensors_of
from tuner.torch.packed_block import Loader


def replace(model: torch.nn.Module, load: Loader = load) -> list[str]:
    """Puts a MoELayer in the place of every MoE block of a transformers model; their names.

    All layers are made before the first block is replaced: when one cannot be made, the model stays as
    it was. The blocks' tensors stay in the model, beside the layers' packed copies of them. Layers of one
    problem share their kernels. `load` is as in `MoELayer.from_block`.

    Raises UsageError for a model type that is not known, and where no block is found. Errors of
    one block begin with its name.
    """
    model_type = _model_type(model)
    places = _blocks(model, model_type)
    layers: dict[torch.nn.Module, MoELayer] = {}  # a block may stand in several places
    for place, block in places.items():
        if block not in layers:
            layers[block] = MoELayer.from_block(block, {"model_type": model_type}, load, place)
    try:
        for place, block in places.items():
            model.set_submodule(place, layers[block])
    except BaseException:
        restore(model)
        raise
    return list(places)


def restore(model: torch.nn.Module) -> list[str]:
    """Puts the blocks back that `replace` took out; the names of their places, none if all are there."""
    require("model", model, torch.nn.Module)
    layers = {
        place: module
        for place, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, MoELayer)
    }
    for place, layer in layers.items():
        model.set_submodule(place, layer.block)
        layer.forget()
    return list(layers)


def _model_type(model: Any) -> str:
    require("model", model, torch.nn.Module, mend="give a transformers model")
    if not hasattr(model, "config"):
        raise UsageError(f"model: {type(model).__name__} has no config; give a transformers model")
    return model_type_of(model.config)


def _blocks(model: torch.nn.Module, model_type: str) -> dict[str, torch.nn.Module]:
    """The MoE blocks by name. Raises UsageError where there are none."""
    names = layout_of(model_type).names
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if set(tensors_of(module)) == names
    }
    blocks = {name: m for name, m in found.items() if not isinstance(m, MoELayer)}
    if found and not blocks:
        raise UsageError(
            f"{type(model).__name__}: its {len(found)} MoE blocks are replaced already; "
            "call tuner.torch.restore first to replace them in another way"
        )
    if not blocks:
        raise UsageError(
            f"{type(model).__name__}: no MoE block is found in this {model_type} model; "
            f"its blocks have {', '.join(sorted(names))} (transformers 5)"
        )
    return blocks
