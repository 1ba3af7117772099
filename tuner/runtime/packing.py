"""Packing: weights in the form that kernels read, one copy for all layers that are made of the same arrays.

Arrays are the same when they lie in the same memory, whose owner is still alive, and hold what they
held when they were packed. The copies belong to the layers: the last one takes its copy along.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.cpu import fork_safety
from tuner.cpu.kernel import ABI, Kernel, Packed
from tuner.problem.arrays import to_numpy
from tuner.problem.weights import Weights

# By problem, packed form and where the arrays lie.
_Key = tuple[Any, ...]


@dataclass(frozen=True)
class _Copy:
    """A packed copy, who owned the memory that it was made from, and the digests of that memory."""

    packed: weakref.ref[Packed]
    owners: tuple[weakref.ref[Any], ...]
    digests: tuple[int, ...]

    def of(self, digests: tuple[int, ...]) -> Packed | None:
        """The copy, if these digests are its memory's and no owner is gone: its memory may be another's."""
        alive = all(owner() is not None for owner in self.owners)
        return self.packed() if alive and digests == self.digests else None


_copies: dict[_Key, _Copy] = {}
_lock = threading.RLock()  # a finalizer may run in a thread that holds it
fork_safety.hold(_lock)


def pack(kernel: Kernel, form: str, given: Weights) -> tuple[Packed, bool]:
    """The weights packed in `form`, which `kernel` reads, and whether another layer shares them.

    Raises WeightsError when an array does not fit the kernel's problem.
    """
    checked = given.check(kernel.problem)
    arrays = list(_arrays(given))
    owners = [_owner(array) for array in arrays]
    if any(owner is None for owner in owners):
        return kernel.pack(checked), False
    places = [_place(to_numpy(array)) for array in arrays]
    key = (kernel.problem, form, ABI, kernel.packed_bytes, *places)
    digests = _digests(checked, kernel.workers)
    with _lock:
        found = _copies.get(key)
        packed = found.of(digests) if found else None
        if packed is not None:
            return packed, True
        packed = kernel.pack(checked)
        if _digests(checked, kernel.workers) != digests:  # somebody wrote while it was packed
            return packed, False
        copy = _Copy(weakref.ref(packed), tuple(o for o in owners if o is not None), digests)
        _copies[key] = copy
        weakref.finalize(packed, _forget, key, copy)
        return packed, False


def _forget(key: _Key, copy: _Copy) -> None:
    with _lock:
        if _copies.get(key) is copy:
            del _copies[key]


def _arrays(weights: Weights) -> Iterator[Any]:
    values = (getattr(weights, field.name) for field in dataclasses.fields(weights))
    return (value for value in values if value is not None)


def _owner(array: Any) -> weakref.ref[Any] | None:
    """A reference to what keeps an array's memory; None where there can be none."""
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    try:
        return weakref.ref(array)
    except TypeError:
        return None


def _place(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    return array.ctypes.data, array.shape, array.strides, array.dtype.str


def _digests(weights: Weights, threads: int) -> tuple[int, ...]:
    """Of each entry of the first axis of each array: they depend on where each byte is. The two of a load
    take 1.5 times as long as packing on two cores; with BLAKE2b it would be six times."""
    rows = (row for array in _arrays(weights) for row in array.reshape(len(array), -1))
    with ThreadPoolExecutor(threads) as pool:  # the check sum holds no lock of the interpreter
        return tuple(pool.map(_digest, rows))


def _digest(row: npt.NDArray[Any]) -> int:
    return zlib.crc32(row.view(np.uint8).data)
