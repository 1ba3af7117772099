"""Runtime: a layer that packs its weights once and picks the kernel by token count at each call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.arrays import NUMPY_DTYPES, is_torch, to_numpy, to_torch
from tuner.compile import compile_source
from tuner.database import Database
from tuner.errors import UsageError
from tuner.kernel import Kernel, Packed
from tuner.memory import allocate
from tuner.pool import REGION
from tuner.problem import Problem
from tuner.render import render
from tuner.select import Selection, best_config
from tuner.target import Target
from tuner.variant import make
from tuner.weights import Weights
from tuner.workload import Workload

Floats = npt.NDArray[np.float32]

# Kernels of this process: layers of one problem share binaries and their worker threads.
_kernels: dict[tuple[str, str], Kernel] = {}
_kernels_lock = threading.Lock()


class _Scratch:
    """The scratch pool of the process; only the holder of REGION may use it."""

    def __init__(self) -> None:
        self._kept = allocate(1)

    def room(self, kernel: Kernel, tokens: int) -> Floats:
        """At least the bytes that a call needs; grown once and kept, unless the kernel says not to."""
        count = kernel.scratch_bytes(tokens) // 4 + 1
        if not kernel.scratch_keep:
            return allocate(count)
        if self._kept.size < count:
            self._kept = allocate(count)
        return self._kept


_scratch = _Scratch()


class Layer:
    """One MoE layer on this machine: `layer(x)` is y [T, D] for x [T, D].

    Made by `load`. Several threads may call it at once; their calls run one after the other, each on
    all cores.
    """

    def __init__(
        self,
        problem: Problem,
        weights: Weights,
        db: Database | str | os.PathLike[str] | None = None,
        target: Target | None = None,
        load: str = "uniform",
    ) -> None:
        self.problem = problem
        self.load = Workload(1, load).load
        self._dtype = NUMPY_DTYPES[problem.dtype]
        self._db, self._target = db, target
        self._by_tokens: dict[int, tuple[Kernel, Selection]] = {}
        checked = weights.check(problem)
        selection = best_config(problem, 1, self.load, target, db)
        self._pack = make(selection.template, selection.config).pack
        kernel = _kernel(problem, selection)
        self._by_tokens[1] = (kernel, selection)
        self._packed: Packed = kernel.pack(checked)

    def __call__(self, x: Any, return_routing: bool = False) -> Any:
        """y [T, D]; with `return_routing` also indices int32 [T, k] and weights [T, k].

        `x` is [T, D] of the problem's dtype: NumPy (bfloat16 as ml_dtypes has it), torch (then the
        answers are torch tensors) or anything with DLPack. T may be 0. Raises UsageError when x has
        another shape or type.
        """
        tokens = self._tokens(x)
        count = tokens.shape[0]
        y = np.empty((count, self.problem.hidden), self._dtype)
        indices = np.empty((count, self.problem.top_k), np.int32)
        weights = np.empty((count, self.problem.top_k), np.float32)
        if count:
            kernel = self._pick(count)[0]
            with REGION:
                scratch = _scratch.room(kernel, count)
                kernel.run(self._packed, tokens, y, indices, weights, scratch)
        answers = (y, indices, weights) if return_routing else (y,)
        if is_torch(x):
            answers = tuple(to_torch(a) for a in answers)
        return answers if return_routing else answers[0]

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why."""
        return self._pick(tokens)[1]

    def prepare(self, tokens: Iterable[int]) -> None:
        """Selects, and compiles where the cache has no binary, ahead of the first call."""
        for count in tokens:
            self._pick(count)

    def _pick(self, tokens: int) -> tuple[Kernel, Selection]:
        found = self._by_tokens.get(tokens)
        if found is None:
            selection = best_config(
                self.problem, tokens, self.load, self._target, self._db, self._pack
            )
            found = self._by_tokens[tokens] = (_kernel(self.problem, selection), selection)
        return found

    def _tokens(self, x: Any) -> npt.NDArray[Any]:
        """x as a C-contiguous NumPy array, without a copy where it is one."""
        array = to_numpy(x)
        hidden = self.problem.hidden
        if array.ndim != 2 or array.shape[1] != hidden or array.dtype != self._dtype:
            raise UsageError(
                f"x: has shape {list(array.shape)} {array.dtype}, must be "
                f"[T, {hidden}] {self._dtype}; reshape or cast it"
            )
        return np.ascontiguousarray(array)


def _kernel(problem: Problem, selection: Selection) -> Kernel:
    """The loaded kernel of a selection, compiled when the cache lacks it."""
    variant = make(selection.template, selection.config)
    source = render(problem, variant)
    key = (source.digest, selection.target.digest)
    with _kernels_lock:
        if key not in _kernels:
            binary = compile_source(source.text, selection.target)
            _kernels[key] = Kernel(binary.path, problem)
        return _kernels[key]


def load(
    problem: Problem,
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
) -> Layer:
    """A layer that runs `problem` with `weights` on this machine.

    Checks and packs the weights once (a second copy of them in memory; the given arrays may be
    dropped afterwards, all but the router). `db` is the database or its path; an empty one
    works too: the template's default is compiled on first use. `load` is the expected load of the
    experts, one key of the selection.

    Raises WeightsError when an array does not fit, CompileError when nothing is cached and the
    toolchain is missing, DatabaseError when the database is damaged.
    """
    return Layer(problem, weights, db, target, load)
