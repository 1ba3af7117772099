"""One packed copy for all layers of the same arrays, and none that outlives them."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, kernel, tokens
from tuner.measure import reference
from tuner.problem.weights import Weights
from tuner.runtime import packing

pytestmark = pytest.mark.compiler

FORM = "v16_c2"


def pack(weights: Weights, form: str = FORM) -> tuple[Any, bool]:
    return packing.pack(kernel(TINY), form, weights)


def test_layers_of_the_same_arrays_share_a_copy() -> None:
    weights = Weights.random(TINY, 1)
    one = tuner.load(TINY, weights)
    two = tuner.load(TINY, Weights(**vars(weights)), load="onehot")
    assert [layer.stats().shared for layer in (one, two)] == [False, True]
    assert one._packed is two._packed
    x = tokens(TINY, 9)
    np.testing.assert_array_equal(one(x), two(x))


def test_views_of_one_array_are_the_same_memory() -> None:
    weights = Weights.random(TINY, 1)
    stack = np.stack([weights.up, weights.up])
    first, _ = pack(Weights(**{**vars(weights), "up": stack[0]}))
    again, shared = pack(Weights(**{**vars(weights), "up": stack[0]}))
    _, other = pack(Weights(**{**vars(weights), "up": stack[1]}))
    assert (again is first, shared, other) == (True, True, False)


def test_another_form_or_equal_arrays_elsewhere_share_nothing() -> None:
    weights = Weights.random(TINY, 1)
    copies = [pack(weights), pack(weights, "v8_c2"), pack(Weights.random(TINY, 1))]
    assert [shared for _, shared in copies] == [False, False, False]


def test_arrays_that_changed_in_place_are_packed_again() -> None:
    weights = Weights.random(TINY, 1)
    before = tuner.load(TINY, weights)
    weights.down[2, 5, 7] += 1.0
    after = tuner.load(TINY, weights)
    assert not after.stats().shared
    assert after._packed is not before._packed
    x = tokens(TINY, 5)
    np.testing.assert_allclose(after(x), reference.moe(TINY, weights, x), atol=1e-5)


def test_memory_whose_owner_is_gone_is_nobodys() -> None:
    weights = Weights.random(TINY, 1)
    kept, _ = pack(weights)
    key, copy = next((k, c) for k, c in packing._copies.items() if c.packed() is kept)
    assert copy.of(copy.digests) is kept
    del weights
    gc.collect()
    assert copy.of(copy.digests) is None
    assert key in packing._copies


def test_the_last_layer_takes_the_copy_along() -> None:
    gc.collect()
    before = len(packing._copies)
    weights = Weights.random(TINY, 1)
    layers = [tuner.load(TINY, weights) for _ in range(3)]
    assert len(packing._copies) == before + 1
    layers.clear()
    gc.collect()
    assert len(packing._copies) == before


def test_arrays_of_torch_are_shared_by_tensor() -> None:
    torch = pytest.importorskip("torch")
    given = {
        n: torch.from_numpy(a) for n, a in vars(Weights.random(TINY, 1)).items() if a is not None
    }
    first, _ = pack(Weights(**given))
    again, shared = pack(Weights(**given))
    assert (again is first, shared) == (True, True)
