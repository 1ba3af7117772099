"""Packed blocks: the layer of a block's tensors, and whether it is theirs still.

A layer holds copies of the weights. The tensors stay in the model, where `load_state_dict`, `to` or an
optimizer may change them: what was packed knows the tensors that it was made of, as they were.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from tuner.errors import UsageError
from tuner.loading import load as load_default
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.runtime.layer import Layer
from tuner.runtime.tuning_layer import TuningLayer
from tuner.torch.layouts import layout_of

# torch's own, without types.
_watch: Callable[[torch.UntypedStorage], Any] = StorageWeakRef

Loaded: TypeAlias = Layer | TuningLayer
Loader: TypeAlias = Callable[[Problem, Weights], Loaded]

_State: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Recipe:
    """How the tensors of a block become a layer.

    Attributes:
        model_type: names the layout.
        loader: the name of what loads; empty for `tuner.load`.
    """

    model_type: str
    problem: Problem
    loader: str

    @property
    def names(self) -> list[str]:
        """The tensors of a block, in the order in which they are handed over."""
        return sorted(layout_of(self.model_type).names)

    def make(self, tensors: Sequence[torch.Tensor]) -> Loaded:
        named = dict(zip(self.names, tensors, strict=True))
        weights = layout_of(self.model_type).weights(named)
        return _loader(self.loader)(self.problem, weights)


class PackedBlock:
    """A layer, and the state in which it found the tensors that it was made of."""

    def __init__(self, recipe: Recipe, tensors: Sequence[torch.Tensor]) -> None:
        self._state = _state(tensors)
        # An address that is watched is given to no other storage.
        self._storages = [_watch(tensor.untyped_storage()) for tensor in tensors]
        self.layer = recipe.make(tensors)

    def is_of(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether nobody changed these tensors, nor put others in their places."""
        return self._state == _state(tensors)

    @property
    def is_orphan(self) -> bool:
        """Whether a tensor that it was made of is gone."""
        return any(storage.expired() for storage in self._storages)


# All that are in use: by MoELayers, or below.
_known: WeakValueDictionary[tuple[Recipe, _State], PackedBlock] = WeakValueDictionary()
# Those that only a compiled or exported graph uses. They live as long as its tensors.
_of_graphs: dict[tuple[Recipe, _State], PackedBlock] = {}
_loaders: dict[str, Loader] = {"": load_default}


def packed(recipe: Recipe, tensors: Sequence[torch.Tensor]) -> PackedBlock:
    """The packed block of these tensors as they are now; it is made where there is none."""
    key = recipe, _state(tensors)
    found = _known.get(key)
    if found is None:
        found = _known[key] = PackedBlock(recipe, tensors)
    return found


def packed_for_graph(recipe: Recipe, tensors: Sequence[torch.Tensor]) -> PackedBlock:
    """The same for a graph, which holds tensors but no MoELayer: it is kept for the next call."""
    key = recipe, _state(tensors)
    found = _known.get(key)
    if found is None:
        places = {tensor.data_ptr() for tensor in tensors}
        forget(places)
        found = _of_graphs[key] = packed(recipe, tensors)
    return found


def forget(places: set[int]) -> None:
    """Drops what graphs made of tensors at these addresses, or of tensors that are gone."""
    for key, block in list(_of_graphs.items()):
        if block.is_orphan or places & {address for _, address, *_ in key[1]}:
            _of_graphs.pop(key, None)


def loader_name(load: Loader) -> str:
    """What graphs, which hold no function, call a loader in this process."""
    for name, known in list(_loaders.items()):
        if known is load:
            return name
    name = f"{getattr(load, '__qualname__', type(load).__name__)}#{secrets.token_hex(4)}"
    _loaders[name] = load
    return name


def _loader(name: str) -> Loader:
    if name not in _loaders:
        raise UsageError(
            f"load={name.partition('#')[0]}: is of another process; export a model that was replaced "
            "without load="
        )
    return _loaders[name]


def _state(tensors: Sequence[torch.Tensor]) -> _State:
    """Changes with each edit that torch sees: it counts them, but for those in inference mode."""
    return tuple(
        (
            tensor.untyped_storage()._cdata,
            tensor.data_ptr(),
            0 if tensor.is_inference() else tensor._version,
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        for tensor in tensors
    )
