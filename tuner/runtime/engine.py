"""Engines: kernels loaded once in a process, on the packed weights of a layer."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from tuner.cpu import fork_safety
from tuner.cpu.buffers import Room, allocate
from tuner.cpu.kernel import Bound, Kernel
from tuner.host.cores import pool_size
from tuner.problem import Problem
from tuner.runtime import fast_path
from tuner.runtime.catalogue import Catalogue
from tuner.select.selection import Selection

# Kernels of this process: layers of one problem share binaries and their worker threads. One binary may be
# there with several numbers of these.
_kernels: dict[tuple[Path, Problem, int], Kernel] = {}
_lock = threading.RLock()
fork_safety.hold(_lock)

# Scratch memory of the process: only the holder of REGION may use it.
SCRATCH = Room(moved=fast_path.forget)


def kernel_of(catalogue: Catalogue, selection: Selection) -> Kernel:
    """The loaded kernel of a selection, one in a process for each library and number of threads.

    That number is settled here, where the layer runs: see `tuner.host.cores.pool_size`.
    """
    path = catalogue.binary(selection)
    workers = pool_size(selection.config.get("workers", 0), selection.target.cores)
    key = (path, catalogue.problem, workers)
    with _lock:
        if key not in _kernels:
            _kernels[key] = Kernel(path, catalogue.problem, workers)
        return _kernels[key]


class Engine:
    """A kernel on a layer's weights, with the scratch memory that it wants."""

    def __init__(self, kernel: Kernel, bound: Bound) -> None:
        self.keeps, self.bound = kernel.scratch_keep, bound
        self._scratch_bytes = kernel.scratch_bytes

    def run(self, tokens: int, x: int, y: int, indices: int, weights: int) -> None:
        """One call, on addresses; the caller holds REGION."""
        size = self._scratch_bytes(tokens) + 4
        if self.keeps:
            self.bound.run(tokens, x, y, SCRATCH.of(size), indices, weights)
        else:
            fresh = allocate(size, np.uint8)
            self.bound.run(tokens, x, y, fresh.ctypes.data, indices, weights)
