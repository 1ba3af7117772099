"""A MoE layer on a GPU: its buffers in device memory and the launches of a call.

The kernels are those of `templates/moe_gpu.mojo.j2`. All launches go to one stream, and nothing comes back to
the host in between, so a call can be captured in a CUDA graph.
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
from tuner.gpu.ptx import Program
from tuner.problem import Problem
from tuner.problem.forms import DTYPE_BYTES

GUARD_BYTES = 4096
_GUARD = 0xA5
_TABLE_ENTRY_BYTES = 16


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
        self.facts = program.facts
        self.params = {name: kernel.params for name, kernel in program.kernels.items()}
        self.functions: dict[str, Function] = {
            name: device.load(kernel.ptx, kernel.entry, kernel.threads, kernel.shared_bytes)
            for name, kernel in program.kernels.items()
        }


def _cluster(facts: Mapping[str, int]) -> int:
    """Blocks of a cluster: 1 where a program names none, as the streaming form and programs of before."""
    return facts.get("cluster", 1)


def most_tiles(problem: Problem, facts: Mapping[str, int], tokens: int) -> int:
    """Tiles that a call of so many tokens may have at most, whatever the routing; facts are a program's."""
    shared = problem.shared_dim // problem.expert_dim
    pairs, cluster = tokens * (problem.top_k + shared), _cluster(facts)
    return cluster * min(pairs, pairs // (cluster * facts["tile_n"]) + problem.num_experts + shared)


def scratch_sizes(problem: Problem, facts: Mapping[str, int], tokens: int) -> dict[str, int]:
    """Bytes of each buffer that a call of a program with these facts needs beside inputs and outputs."""
    shared = problem.shared_dim // problem.expert_dim
    experts, k = problem.num_experts + shared, problem.top_k + shared
    tiles = most_tiles(problem, facts, tokens)
    element = DTYPE_BYTES[problem.dtype]
    return {
        "logits": tokens * problem.num_experts * 4,
        "counters": (experts + 1) * 4,
        "lists": experts * tokens * 4,
        "tiles": 4,
        "table": tiles * _TABLE_ENTRY_BYTES,
        "hidden": tiles * facts["tile_n"] * problem.expert_dim * element,
        "rows": tokens * k * problem.hidden * element,
    }


def io_sizes(problem: Problem, tokens: int) -> dict[str, int]:
    """Bytes of a call's inputs and outputs."""
    row = tokens * problem.hidden * DTYPE_BYTES[problem.dtype]
    choice = tokens * problem.top_k * 4
    return {"x": row, "y": row, "indices": choice, "weights": choice}


def grids(
    problem: Problem, facts: Mapping[str, int], tokens: int, multiprocessors: int
) -> dict[str, tuple[int, int]]:
    """Blocks (x, y) of each kernel of a call, in the order of their launches; facts are a program's."""
    if tokens == 0:
        return {}
    if "strips1" in facts:
        pairs = tokens * (problem.top_k + problem.shared_dim // problem.expert_dim)
        return {
            "moe_route": (facts["route_blocks"], _share(tokens, facts["route_tokens"])),
            "moe_stream_1": (pairs, facts["strips1"]),
            "moe_stream_2": (tokens, facts["strips2"]),
        }
    tiles, cluster = most_tiles(problem, facts, tokens), _cluster(facts)
    persistent = {
        f"moe_product_{number}": (
            min(
                tiles * facts[f"pieces{number}"],
                multiprocessors * facts[f"blocks{number}"] // cluster * cluster,
            ),
            1,
        )
        for number in (1, 2)
    }
    return {
        "moe_logits": (
            _share(tokens, facts["route_tokens"]),
            _share(problem.num_experts, facts["route_experts"]),
        ),
        "moe_choose": (_share(tokens, facts["choose_tokens"]), 1),
        **persistent,
        "moe_combine": (_share(tokens * problem.hidden, facts["combine_elements"]), 1),
    }


class Call:
    """A layer's call on one number of tokens; ``run(stream)`` starts it.

    ``addresses`` are those of the packed weights, of the inputs and outputs, and of the scratch, by the
    names that the kernels give their parameters. ``arguments`` holds them, to be changed between two runs.
    """

    def __init__(
        self,
        device: Device,
        kernel: GpuKernel,
        problem: Problem,
        addresses: Mapping[str, Address],
        tokens: int,
        routed: bool,
    ) -> None:
        self._device, self._kernel = device, kernel
        named = {name for params in kernel.params.values() for name in params}
        numbers = {"tokens": ctypes.c_int32(tokens), "routed": ctypes.c_int32(routed)}
        self.arguments = {name: ctypes.c_uint64(addresses[name]) for name in named - numbers.keys()}
        values: dict[str, Any] = {**self.arguments, **numbers}
        self._launches = [
            device.launch(kernel.functions[name], grid, [values[p] for p in kernel.params[name]])
            for name, grid in grids(problem, kernel.facts, tokens, device.multiprocessors).items()
        ]

    def run(self, stream: int) -> None:
        for launch in self._launches:
            launch.start(stream)

    def run_one(self, number: int, stream: int) -> None:
        """Starts the launch with this number alone."""
        self._launches[number].start(stream)


def _share(count: int, of: int) -> int:
    return -(-count // of)


def upload(device: Device, packed: Mapping[str, NDArray[Any]]) -> dict[str, Address]:
    """Packed weights in device memory."""
    return {name: device.upload(array) for name, array in packed.items()}
