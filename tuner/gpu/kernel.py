"""A MoE layer on a GPU: its buffers in device memory and the launches of a call.

The program says what is launched and which memory that needs. All launches go to one stream, and nothing comes
back to the host in between, so a call can be captured in a CUDA graph.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.gpu.driver import Address, Device
from tuner.gpu.launch import Function
from tuner.gpu.program import ARRAYS
from tuner.gpu.ptx import Program
from tuner.problem import Problem
from tuner.problem.dtypes import DTYPES

GUARD_BYTES = 4096
_GUARD = 0xA5


@dataclass(frozen=True)
class Piece:
    """Part of an arena: where it starts and how long it is."""

    address: Address
    size: int


class Arena:
    """Buffers of given sizes in one allocation, guard zones around each.

    Every buffer starts as bytes of 255: NaN in every floating-point format, -1 as an integer.
    """

    def __init__(self, device: Device, sizes: Mapping[str, int]) -> None:
        self._device = device
        at, places = GUARD_BYTES, {}
        for name, size in sizes.items():
            places[name] = (at, size)
            at += -(-size // 256) * 256 + GUARD_BYTES
        self._size = at
        self._base = device.alloc(at)
        self.pieces = {n: Piece(self._base + start, size) for n, (start, size) in places.items()}
        self.poison()

    def __getitem__(self, name: str) -> Address:
        return self.pieces[name].address

    def poison(self) -> None:
        """Refill guards and buffers."""
        self._device.fill(self._base, _GUARD, self._size)
        for piece in self.pieces.values():
            self._device.fill(piece.address, 0xFF, piece.size)

    def broken(self) -> str:
        """The first buffer outside of which something was written; empty where there is none."""
        for name, piece in self.pieces.items():
            guard = np.empty(GUARD_BYTES, np.uint8)
            tail = -piece.size % 256
            after = np.empty(GUARD_BYTES + tail, np.uint8)
            self._device.download(piece.address - GUARD_BYTES, guard)
            self._device.download(piece.address + piece.size, after)
            if (guard != _GUARD).any() or (after != _GUARD).any():
                return name
        return ""

    def free(self) -> None:
        self._device.free(self._base)


class GpuKernel:
    """A program's kernels, loaded. Raises CudaError where the driver refuses one."""

    def __init__(self, device: Device, program: Program) -> None:
        self.program, self._multiprocessors = program, device.multiprocessors
        self.functions: dict[str, Function] = {
            name: device.load(kernel.ptx, kernel.entry, kernel.threads, kernel.shared_bytes)
            for name, kernel in program.kernels.items()
        }

    def scratch_sizes(self, tokens: int) -> dict[str, int]:
        """Bytes of each scratch buffer of a call on this device."""
        return self.program.scratch_sizes(tokens, self._multiprocessors)

    def grids(self, tokens: int) -> list[tuple[str, tuple[int, int]]]:
        """Kernel and blocks of each launch of a call on this device."""
        return self.program.grids(tokens, self._multiprocessors)


def io_sizes(problem: Problem, tokens: int) -> dict[str, int]:
    """Bytes of a call's inputs and outputs, which are the same for every program."""
    row = tokens * problem.hidden * DTYPES[problem.dtype].bytes
    choice = tokens * problem.top_k * 4
    return {"x": row, "y": row, "indices": choice, "weights": choice}


class Call:
    """A layer's call on one number of tokens; ``run(stream)`` starts it.

    ``addresses`` are those of the packed weights, of the inputs and outputs, and of the scratch, by the
    names that the kernels give their parameters. ``arguments`` holds them, to be changed between two runs.
    """

    def __init__(
        self,
        device: Device,
        kernel: GpuKernel,
        addresses: Mapping[str, Address],
        tokens: int,
        routed: bool,
    ) -> None:
        params = {name: of.params for name, of in kernel.program.kernels.items()}
        named = {name for names in params.values() for name in names}
        numbers = {"tokens": ctypes.c_int32(tokens), "routed": ctypes.c_int32(routed)}
        arrays = (named | set(ARRAYS)) - numbers.keys()
        self.arguments = {name: ctypes.c_uint64(addresses[name]) for name in arrays}
        values: dict[str, Any] = {**self.arguments, **numbers}
        self._launches = [
            device.launch(kernel.functions[name], grid, [values[p] for p in params[name]])
            for name, grid in kernel.grids(tokens)
        ]

    def run(self, stream: int) -> None:
        for launch in self._launches:
            launch.start(stream)

    def run_one(self, number: int, stream: int) -> None:
        """Starts the launch with this number alone."""
        self._launches[number].start(stream)


def upload(device: Device, packed: Mapping[str, NDArray[Any]]) -> dict[str, Address]:
    """Packed weights in device memory."""
    return {name: device.upload(array) for name, array in packed.items()}
