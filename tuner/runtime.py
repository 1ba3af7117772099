"""Runtime: a layer that packs its weights once and picks the kernel by token count at each call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tuner.arrays import NUMPY_DTYPES, is_torch, to_numpy, to_torch
from tuner.catalogue import Catalogue
from tuner.errors import UsageError
from tuner.kernel import Kernel, Packed
from tuner.memory import allocate
from tuner.pool import REGION
from tuner.problem import Problem
from tuner.selection import Selection
from tuner.target import Target
from tuner.weights import Weights
from tuner.workload import Workload

if TYPE_CHECKING:
    from tuner.database import Database

Floats = npt.NDArray[np.float32]

# Kernels of this process: layers of one problem share binaries and their worker threads.
_kernels: dict[tuple[Path, Problem], Kernel] = {}
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

    def __init__(self, catalogue: Catalogue, weights: Weights, load: str = "uniform") -> None:
        self.problem = catalogue.problem
        self.load = Workload(1, load).load
        self._catalogue = catalogue
        self._dtype = NUMPY_DTYPES[self.problem.dtype]
        self._by_tokens: dict[int, tuple[Kernel, Selection]] = {}
        checked = weights.check(self.problem)
        selection = catalogue.select(1, self.load, None)
        self._pack = selection.pack
        kernel = _kernel(catalogue, selection)
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
            selection = self._catalogue.select(tokens, self.load, self._pack)
            found = self._by_tokens[tokens] = (_kernel(self._catalogue, selection), selection)
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


def _kernel(catalogue: Catalogue, selection: Selection) -> Kernel:
    """The loaded kernel of a selection, one in a process for each library."""
    path = catalogue.binary(selection)
    key = (path, catalogue.problem)
    with _kernels_lock:
        if key not in _kernels:
            _kernels[key] = Kernel(path, catalogue.problem)
        return _kernels[key]


def load(
    source: Problem | str | os.PathLike[str],
    weights: Weights,
    db: Database | str | os.PathLike[str] | None = None,
    target: Target | None = None,
    load: str = "uniform",
    *,
    trust: str = "signed",
    problem: Problem | None = None,
) -> Layer:
    """A layer that runs on this machine: `source` is a Problem, or the path of a bundle.

    Checks and packs the weights once (a second copy of them in memory; the given arrays may be
    dropped afterwards, all but the router). `load` is the expected load of the experts, one key of the
    selection; `target` is what the code has to run on, this machine unless given.

    With a Problem, `db` is the database or its path; an empty one works too: the template's default is
    compiled on first use. With a bundle, `trust` says what is needed of its signature ("unsigned" takes
    any), and `problem` which one is meant where it holds several.

    Raises WeightsError when an array does not fit, CompileError when nothing is cached and the
    toolchain is missing, DatabaseError when the database is damaged, UsageError when an argument
    belongs to the other kind of source, and what `tuner.bundle` says of a bundle that it refuses.
    """
    return Layer(_catalogue(source, db, target, trust, problem), weights, load)


def _catalogue(
    source: Problem | str | os.PathLike[str],
    db: Database | str | os.PathLike[str] | None,
    target: Target | None,
    trust: str,
    problem: Problem | None,
) -> Catalogue:
    """Imports one of the two ways: a bundle needs no compiler, a database no signatures."""
    if isinstance(source, Problem):
        if problem is not None:
            raise UsageError("problem: is for a bundle that holds several; give one Problem")
        from tuner.tuned import Tuned

        return Tuned(source, db, target)
    if db is not None:
        raise UsageError(f"db: a bundle ({os.fspath(source)}) brings its own winners; leave it out")
    from tuner.bundle import open_bundle

    return open_bundle(Path(source), trust=trust, problem=problem, target=target)
