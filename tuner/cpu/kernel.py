"""Calling a compiled kernel: its C interface and its packed weights.

The library exports `moe_info`, `moe_pack`, `moe_scratch_bytes`, `moe_call`, `moe_worker` and
`moe_stop` (see templates/moe_cpu.mojo.j2); it needs libc and no run-time library.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.cpu.buffers import address, allocate
from tuner.cpu.worker_pool import (
    ARGUMENT_WORDS,
    Pool,
    Signatures,
    load_library,
    pool_signatures,
    ready_argument,
)
from tuner.errors import KernelError
from tuner.host.cores import pool_size
from tuner.problem import Problem
from tuner.problem.arrays import float32_of
from tuner.problem.weights import Weights

# Also of the packed forms: another layout under an old name is another ABI.
ABI = 2
# The one of before: the number of threads was a constant of the library. Bundles hold such libraries.
FORMER_ABI = 1
# The words of a call's arguments that hold the address of its scratch memory, and how many threads share it.
SCRATCH_WORD, WORKERS_WORD = 4, 11
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights in the form that kernels of one packing read.

    `panels`: bytes of all experts, in the weights' data type; `router` [E, D] and its biases [E] in
    float32, whatever they were given in: routing is decided in float32.
    """

    panels: npt.NDArray[np.uint8]
    router: Floats | None
    router_bias: Floats | None
    correction_bias: Floats | None


def _address(array: npt.NDArray[np.generic] | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


class Kernel:
    """One loaded binary with its worker threads: at most `workers` for a call, as many as the process may
    use with 0. A library of the former ABI has as many as it was built with.

    Raises KernelError when the library does not load, speaks another ABI or
    was built for another problem.
    """

    def __init__(self, path: Path, problem: Problem, workers: int = 0) -> None:
        self.problem = problem
        self.path = path
        self._library = _load(path)
        info = np.zeros(9, np.int64)
        self._library.moe_info(_address(info))
        abi, *sizes = (int(number) for number in info)
        expected = (ABI, problem.hidden, problem.expert_dim, problem.num_experts, problem.top_k)
        if abi not in (ABI, FORMER_ABI) or tuple(sizes[:4]) != expected[1:]:
            raise KernelError(
                f"{path}: reports (abi, hidden, expert_dim, num_experts, top_k) = {(abi, *sizes[:4])}, "
                f"must be {expected}; clear the cache folder and compile again"
            )
        threads = sizes.pop(4) if abi == FORMER_ABI else pool_size(workers)
        self.packed_bytes, control_bytes, keeps = sizes[4:7]
        self.scratch_keep = bool(keeps)
        self._pool = Pool(self._library, "moe", threads, control_bytes)

    @property
    def workers(self) -> int:
        """Threads of one call."""
        return self._pool.workers

    def pack(self, weights: Weights) -> Packed:
        """Packs checked weights: one copy, in their own data type."""
        panels = allocate(self.packed_bytes, np.uint8)
        problem = self.problem
        slices = -(-problem.shared_dim // problem.expert_dim)
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [
                pool.submit(self._pack_expert, panels, weights, expert)
                for expert in range(problem.num_experts + slices)
            ]
        for job in jobs:
            job.result()
        router = (weights.router, weights.router_bias, weights.correction_bias)
        # Copies: kernels read them at each call, whatever becomes of the caller's memory.
        return Packed(panels, *(None if a is None else float32_of(a).copy() for a in router))

    def _pack_expert(self, panels: npt.NDArray[np.uint8], weights: Weights, expert: int) -> None:
        problem = self.problem
        if expert < problem.num_experts:
            matrices = [
                m if m is None else m[expert] for m in (weights.gate, weights.up, weights.down)
            ]
            biases = (weights.gate_bias, weights.up_bias, weights.down_bias)
            bias_rows = [b if b is None else b[expert] for b in biases]
            stride = width = problem.expert_dim
        else:
            assert weights.shared_up is not None
            assert weights.shared_down is not None
            first = (expert - problem.num_experts) * problem.expert_dim
            width = min(problem.expert_dim, problem.shared_dim - first)
            part = slice(first, first + width)
            gate = None if weights.shared_gate is None else weights.shared_gate[part]
            matrices = [gate, weights.shared_up[part], weights.shared_down[:, part]]
            zeros = np.zeros(max(problem.expert_dim, problem.hidden), weights.shared_up.dtype)
            bias_rows = [zeros] * 3
            stride = problem.shared_dim
        self._library.moe_pack(
            _address(panels),
            expert,
            *(_address(m) for m in matrices),
            stride,
            width,
            *(_address(b) for b in bias_rows),
        )

    def scratch_bytes(self, tokens: int) -> int:
        """Scratch that a call with `tokens` tokens needs, in bytes."""
        return int(self._library.moe_scratch_bytes(tokens, self.workers))

    def bind(self, packed: Packed, routed: bool = False) -> Bound:
        """The kernel on these weights; `routed` as in `run`."""
        return Bound(self._pool, packed, routed)

    def run(
        self,
        packed: Packed,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        indices: Ints,
        weights: Floats,
        scratch: npt.NDArray[np.generic],
        routed: bool = False,
    ) -> None:
        """Runs the layer: x [T, D] to y [T, D]; all arrays C-contiguous, T >= 1.

        `indices` and `weights` [T, k] are filled, or read when `routed`. Nothing is checked
        here: callers do. Only one region runs at a time in a process.
        """
        self._pool.run(
            (
                x.shape[0],
                x.ctypes.data,
                y.ctypes.data,
                packed.panels.ctypes.data,
                scratch.ctypes.data,
                _address(packed.router),
                _address(packed.router_bias),
                _address(packed.correction_bias),
                indices.ctypes.data,
                weights.ctypes.data,
                int(routed),
                self.workers,
            )
        )


class Bound:
    """A kernel on one packed copy of weights: a call sets what changes, as addresses, and no more."""

    def __init__(self, pool: Pool, packed: Packed, routed: bool = False) -> None:
        self._pool, self._routed = pool, routed
        self._packed = packed  # its addresses are in the blocks
        self._block = self._new()
        self._address = ctypes.addressof(self._block)

    def run(self, tokens: int, x: int, y: int, scratch: int, indices: int, weights: int) -> None:
        """One call, as in `Kernel.run`; the caller holds REGION and keeps the arrays."""
        _fill(self._block, tokens, x, y, scratch, indices, weights)
        self._pool.call(self._address)

    def fix(
        self, tokens: int, x: int, y: int, scratch: int, indices: int, weights: int
    ) -> tuple[Callable[[Any, Any], None], int, ctypes.Array[ctypes.c_int64]]:
        """The library's function, the address of its control block, and arguments for one call again
        and again. Only for a kernel that has run before: its threads are there."""
        block = self._new()
        _fill(block, tokens, x, y, scratch, indices, weights)
        return *self._pool.entry, block

    def ready(
        self, tokens: int, x: int, y: int, scratch: int, indices: int, weights: int, fresh: int = 0
    ) -> Callable[[], None]:
        """One call as of `fix`, for the clock: all is looked up beforehand. The address of one array
        takes up to 50 us where the caches are cold, and would count as the kernel's. With `fresh` it
        takes new scratch memory of so many numbers each time. The caller keeps kernel and arrays."""
        function, pool, block = self.fix(tokens, x, y, scratch, indices, weights)
        control, words = ready_argument(pool), ready_argument(ctypes.addressof(block))

        def call() -> None:
            if fresh:
                memory = allocate(fresh)
                block[SCRATCH_WORD] = address(memory)
            function(control, words)

        return call

    def _new(self) -> ctypes.Array[ctypes.c_int64]:
        block = (ctypes.c_int64 * ARGUMENT_WORDS)()
        block[3] = _address(self._packed.panels)
        router = (self._packed.router, self._packed.router_bias, self._packed.correction_bias)
        block[5:8] = [_address(array) for array in router]
        block[10] = int(self._routed)
        block[WORKERS_WORD] = self._pool.workers
        return block


def _fill(
    block: ctypes.Array[ctypes.c_int64],
    tokens: int,
    x: int,
    y: int,
    scratch: int,
    indices: int,
    weights: int,
) -> None:
    block[0] = tokens
    block[1] = x
    block[2] = y
    block[SCRATCH_WORD] = scratch
    block[8] = indices
    block[9] = weights


def _load(path: Path) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    pack: list[type] = [
        pointer,
        number,
        pointer,
        pointer,
        pointer,
        number,
        number,
        pointer,
        pointer,
        pointer,
    ]
    signatures: Signatures = {
        **pool_signatures("moe"),
        "moe_pack": (pack, None),
        "moe_scratch_bytes": ([number, number], number),  # the former ABI reads the first one alone
    }
    return load_library(path, signatures)
