"""Buffers: page-aligned, on huge pages where the system gives them.

4 KiB pages cost 4 to 9 % of the read bandwidth at decode: weights and scratch
live in anonymous maps that ask for transparent huge pages.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import KernelError
from tuner.space.failure import OUT_OF_MEMORY

HUGE_PAGE = 2 * 1024 * 1024


def allocate(count: int, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """Zeroed array [count] that starts on a huge page; freed with its last reference.

    Raises KernelError where the system does not give as much memory.
    """
    size = max(1, count) * np.dtype(dtype).itemsize
    whole = -(-size // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE
    try:
        area = mmap.mmap(-1, whole, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise KernelError(
            f"{OUT_OF_MEMORY}: {whole >> 20} MiB cannot be had; use a smaller scratch_mib or fewer tokens"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        area.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(area, np.uint8)
    start = -raw.ctypes.data % HUGE_PAGE
    return raw[start : start + size].view(dtype)[:count]


def address(array: npt.NDArray[Any]) -> int:
    """The address of an array, in less time than `array.ctypes.data` takes."""
    return int(array.__array_interface__["data"][0])


class Room:
    """Memory that grows to what was asked for and is kept; `moved` is called when it moves."""

    def __init__(self, moved: Callable[[], None] = lambda: None) -> None:
        self._moved = moved
        self._kept = allocate(1, np.uint8)
        self.address: int = self._kept.ctypes.data

    def of(self, size: int) -> int:
        """The address of at least `size` bytes, on a huge page; what was there before may be gone."""
        if self._kept.size < size:
            fresh = allocate(size, np.uint8)
            place = fresh.ctypes.data
            self._moved()  # first: after a signal's exception nobody may know the former address
            self.address, self._kept = place, fresh
        return self.address

    def view(self, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """The first values."""
        return self._kept[: count * np.dtype(dtype).itemsize].view(dtype)
