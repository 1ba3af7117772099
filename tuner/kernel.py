"""Calling a compiled kernel: its C interface, its worker threads, its packed weights.

The library exports `moe_info`, `moe_pack`, `moe_scratch_bytes`, `moe_call`, `moe_worker` and
`moe_stop` (see templates/moe_cpu.mojo.j2). Worker threads are Python threads that live in
`moe_worker`, where they hold no lock of the interpreter; the binary needs no run-time library.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tuner.errors import KernelError
from tuner.memory import allocate
from tuner.problem import Problem
from tuner.weights import Weights

ABI = 1
ARGUMENT_WORDS = 16
(
    ARG_TOKENS,
    ARG_X,
    ARG_Y,
    ARG_PACKED,
    ARG_SCRATCH,
    ARG_ROUTER,
    ARG_ROUTER_BIAS,
    ARG_CORRECTION_BIAS,
    ARG_INDICES,
    ARG_WEIGHTS,
    ARG_ROUTED,
) = range(11)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

# One parallel region at a time in a process: two at once would share the same cores.
_region = threading.Lock()
_open: weakref.WeakSet[Kernel] = weakref.WeakSet()


@dataclass(frozen=True)
class Packed:
    """Weights in the form that kernels of one packing read.

    `panels`: float32, all experts; `router` [E, D] and biases [E] as given.
    """

    panels: Floats
    router: Floats
    router_bias: Floats | None
    correction_bias: Floats | None


def _address(array: npt.NDArray[np.generic] | None) -> int:
    return 0 if array is None else int(array.ctypes.data)


class Kernel:
    """One loaded binary with its worker threads.

    Raises KernelError when the library does not load, speaks another ABI or
    was built for another problem.
    """

    def __init__(self, path: Path, problem: Problem) -> None:
        self.problem = problem
        self.path = path
        self._library = _load(path)
        info = np.zeros(9, np.int64)
        self._library.moe_info(_address(info))
        expected = (ABI, problem.hidden, problem.expert_dim, problem.num_experts, problem.top_k)
        if tuple(int(v) for v in info[:5]) != expected:
            raise KernelError(
                f"{path}: reports (abi, hidden, expert_dim, num_experts, top_k) = {tuple(info[:5].tolist())}, "
                f"must be {expected}; clear the cache folder and compile again"
            )
        self.workers = int(info[5])
        self.packed_floats = int(info[6]) // 4
        self.scratch_keep = bool(info[8])
        self._control = allocate(int(info[7]) // 8, np.int64)
        self._arguments = allocate(ARGUMENT_WORDS, np.int64)
        self._threads: list[threading.Thread] = []
        _open.add(self)

    def pack(self, weights: Weights, panels: Floats | None = None) -> Packed:
        """Packs checked weights; `panels` may name where to (float32 [packed_floats])."""
        if panels is None:
            panels = allocate(self.packed_floats)
        problem = self.problem
        slices = -(-problem.shared_dim // problem.expert_dim)
        with ThreadPoolExecutor(self.workers) as pool:
            jobs = [
                pool.submit(self._pack_expert, panels, weights, expert)
                for expert in range(problem.num_experts + slices)
            ]
        for job in jobs:
            job.result()
        return Packed(panels, weights.router, weights.router_bias, weights.correction_bias)

    def _pack_expert(self, panels: Floats, weights: Weights, expert: int) -> None:
        problem = self.problem
        if expert < problem.num_experts:
            matrices = [m if m is None else m[expert] for m in (weights.gate, weights.up, weights.down)]
            biases = (weights.gate_bias, weights.up_bias, weights.down_bias)
            bias_rows = [b if b is None else b[expert] for b in biases]
            stride = width = problem.expert_dim
        else:
            assert weights.shared_up is not None and weights.shared_down is not None
            first = (expert - problem.num_experts) * problem.expert_dim
            width = min(problem.expert_dim, problem.shared_dim - first)
            part = slice(first, first + width)
            gate = None if weights.shared_gate is None else weights.shared_gate[part]
            matrices = [gate, weights.shared_up[part], weights.shared_down[:, part]]
            zeros = np.zeros(max(problem.expert_dim, problem.hidden), np.float32)
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
        return int(self._library.moe_scratch_bytes(tokens))

    def run(
        self,
        packed: Packed,
        x: Floats,
        y: Floats,
        indices: Ints,
        weights: Floats,
        scratch: npt.NDArray[np.generic],
        routed: bool = False,
    ) -> None:
        """Runs the layer: x [T, D] to y [T, D]; all arrays C-contiguous, T >= 1.

        `indices` and `weights` [T, k] are filled, or read when `routed`. Nothing is checked
        here: callers do. Only one region runs at a time in a process.
        """
        values = (
            x.shape[0],
            x.ctypes.data,
            y.ctypes.data,
            packed.panels.ctypes.data,
            scratch.ctypes.data,
            packed.router.ctypes.data,
            _address(packed.router_bias),
            _address(packed.correction_bias),
            indices.ctypes.data,
            weights.ctypes.data,
            int(routed),
        )
        with _region:
            if not self._threads:
                self._start()
            self._arguments[: len(values)] = values
            self._library.moe_call(self._control_address, self._arguments_address)

    def _start(self) -> None:
        """Starts the worker threads; the calling thread is worker 0."""
        self._control_address = _address(self._control)
        self._arguments_address = _address(self._arguments)
        for worker in range(1, max(2, self.workers)):
            thread = threading.Thread(
                target=self._library.moe_worker,
                args=(self._control_address, worker),
                name=f"moetune-{worker}",
                daemon=True,
            )
            self._threads.append(thread)
            if worker < self.workers:
                thread.start()

    def close(self) -> None:
        """Sends the worker threads home; the kernel can't run after it."""
        if any(t.is_alive() for t in self._threads):
            self._library.moe_stop(self._control_address)
            for thread in self._threads:
                thread.join(timeout=1.0)


@atexit.register
def _close_all() -> None:
    for kernel in list(_open):
        kernel.close()


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        raise KernelError(f"{path}: does not load: {error}; clear the cache folder") from error
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    signatures: dict[str, tuple[list[type], type | None]] = {
        "moe_info": ([pointer], None),
        "moe_pack": (
            [pointer, number, pointer, pointer, pointer, number, number, pointer, pointer, pointer],
            None,
        ),
        "moe_scratch_bytes": ([number], number),
        "moe_call": ([pointer, pointer], None),
        "moe_worker": ([pointer, number], None),
        "moe_stop": ([pointer], None),
    }
    for name, (arguments, result) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise KernelError(f"{path}: exports no {name}; it is not a moetune kernel") from error
        function.argtypes = arguments
        function.restype = result
    return library
