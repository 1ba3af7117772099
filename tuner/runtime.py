"""Runtime: a layer that packs its weights once and picks the kernel by token count at each call."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tuner import fixed, traffic
from tuner.arrays import NUMPY_DTYPES, is_torch, to_numpy, to_torch
from tuner.catalogue import Catalogue
from tuner.dispatch import buckets
from tuner.errors import UsageError
from tuner.kernel import Bound, Kernel
from tuner.memory import Room, allocate
from tuner.packing import pack
from tuner.pool import REGION
from tuner.problem import Problem
from tuner.selection import Selection
from tuner.stats import Counters, Stats
from tuner.target import Target
from tuner.weights import Weights
from tuner.workload import Workload, pairs_per_expert

if TYPE_CHECKING:
    from tuner.database import Database

Array = npt.NDArray[Any]

# Kernels of this process: layers of one problem share binaries and their worker threads.
_kernels: dict[tuple[Path, Problem], Kernel] = {}
_kernels_lock = threading.Lock()

# Memory of the process for one call at a time: only the holder of REGION may use it.
_scratch = Room()
_routing = Room()


class Layer:
    """One MoE layer on this machine: `layer(x)` is y [T, D] for x [T, D].

    Made by `load`. Several threads may call it at once; their calls run one after the other, each on
    all cores. Which kernel serves which token count is settled when the layer is made: what is tuned
    later serves layers that are loaded later.
    """

    def __init__(self, catalogue: Catalogue, weights: Weights, load: str = "uniform") -> None:
        start = time.perf_counter()
        self.problem = catalogue.problem
        self.load = Workload(1, load).load
        self._catalogue = catalogue
        self._dtype = NUMPY_DTYPES[self.problem.dtype]
        self._hidden, self._top_k = self.problem.hidden, self.problem.top_k
        self._pack = catalogue.select(1, self.load, None).pack
        self._buckets = buckets(self._select)
        self._firsts = [bucket.first for bucket in self._buckets]
        self._engines: list[_Engine | None] = [None] * len(self._buckets)
        self._by_kernel: dict[Kernel, _Engine] = {}
        self._counters = Counters(len(self._buckets))
        self._fixed: dict[tuple[int, ...], fixed.Call] = {}
        kernel = _kernel(catalogue, self._buckets[0].selection)
        packing = time.perf_counter()
        self._packed, self._shared = pack(kernel, self._pack, weights)
        end = time.perf_counter()
        self._load_ms, self._pack_ms = 1e3 * (end - start), 1e3 * (end - packing)

    def __call__(self, x: Any, return_routing: bool = False, out: Any = None) -> Any:
        """y [T, D]; with `return_routing` also indices int32 [T, k] and weights [T, k].

        `x` is [T, D] of the problem's dtype: NumPy (bfloat16 as ml_dtypes has it), torch (then the
        answers are torch tensors) or anything with DLPack. T may be 0. y is written to `out` where that
        is given: C-contiguous, of the shape and type of x, not overlapping it. Raises UsageError when x
        or `out` has another shape or type.
        """
        if type(x) is np.ndarray and not return_routing:
            call = self._fixed.get(x.shape)
            fits = x.dtype is self._dtype and not traffic.recorders
            if call is not None and fits and (out is None or self._plain(out, x.shape)):
                # Written out, as each function called from here would cost microseconds.
                source, result, function, control, arguments, scratch, calls, _ = call
                REGION.acquire()
                try:
                    if _scratch.address == scratch:
                        source[...] = x
                        function(control, arguments)
                        calls[0] += 1
                        if out is None:
                            return result.copy()
                        out[...] = result
                        return out
                finally:
                    REGION.release()
        return self._general(x, return_routing, out)

    def _general(self, x: Any, return_routing: bool, out: Any) -> Any:
        """A call on arrays wherever they are."""
        tokens = x if type(x) is np.ndarray else to_numpy(x)
        shape = tokens.shape
        if len(shape) != 2 or shape[1] != self._hidden or tokens.dtype != self._dtype:
            self._refuse("x", tokens, "T")
        if not tokens.flags.c_contiguous:
            tokens = np.ascontiguousarray(tokens)
        y = np.empty(shape, self._dtype) if out is None else self._writable(out, shape)
        if not return_routing:
            if shape[0]:
                self._run(tokens, y, None, None)
            if out is not None:
                return out
            return to_torch(y) if is_torch(x) else y
        indices = np.empty((shape[0], self._top_k), np.int32)
        weights = np.empty((shape[0], self._top_k), np.float32)
        if shape[0]:
            self._run(tokens, y, indices, weights)
        answers = [y, indices, weights]
        if is_torch(x):
            answers = [to_torch(array) for array in answers]
        return (answers[0] if out is None else out, *answers[1:])

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why."""
        serves = self._buckets[self._bucket(max(tokens, 1))].selection
        now = self._select(tokens)
        same = (now.template, now.variant, now.target) == (
            serves.template,
            serves.variant,
            serves.target,
        )
        return now if same else serves

    def prepare(self, tokens: Iterable[int]) -> None:
        """Compiles where the cache has no binary, and loads, ahead of the first call."""
        for count in tokens:
            self._engine(self._bucket(max(count, 1)))

    def stats(self) -> Stats:
        """What the layer did so far."""
        with REGION:
            return self._counters.tell(
                self._buckets,
                load_ms=self._load_ms,
                pack_ms=self._pack_ms,
                packed_bytes=self._packed.panels.nbytes,
                shared=self._shared,
            )

    def _select(self, tokens: int) -> Selection:
        return self._catalogue.select(tokens, self.load, self._pack)

    def _bucket(self, tokens: int) -> int:
        return bisect_right(self._firsts, tokens) - 1

    def _engine(self, bucket: int) -> _Engine:
        """What runs the calls of a bucket; buckets of one kernel share it."""
        found = self._engines[bucket]
        if found is None:
            kernel = _kernel(self._catalogue, self._buckets[bucket].selection)
            if kernel not in self._by_kernel:
                self._by_kernel[kernel] = _Engine(kernel, kernel.bind(self._packed))
            found = self._engines[bucket] = self._by_kernel[kernel]
        return found

    def _run(self, x: Array, y: Array, indices: Array | None, weights: Array | None) -> None:
        """One call on checked arrays; a routing that nobody asked for goes to memory of the process."""
        count = len(x)
        bucket = bisect_right(self._firsts, count) - 1
        engine = self._engines[bucket] or self._engine(bucket)
        source, target = _place(x), _place(y)
        with REGION:
            if indices is None or weights is None:
                place = _routing.of(8 * count * self._top_k)
                places = place, place + 4 * count * self._top_k
            else:
                places = _place(indices), _place(weights)
            start = time.perf_counter_ns() if traffic.recorders else 0
            engine.run(count, source, target, *places)
            wanted = self._counters.count(bucket, count)
            if wanted or traffic.recorders:
                self._look(count, indices, wanted, time.perf_counter_ns() - start)
            if count <= fixed.MOST_TOKENS and engine.keeps:
                self._fix(bucket, engine, x.shape)

    def _fix(self, bucket: int, engine: _Engine, shape: tuple[int, ...]) -> None:
        """Makes the next call with as many tokens a fixed one; also when the scratch memory has moved."""
        former = self._fixed.get(shape)
        if former is None or former.scratch != _scratch.address:
            calls = former.calls if former else self._counters.fixed(bucket, shape[0])
            self._fixed[shape] = fixed.prepare(
                engine.bound,
                (shape[0], self._hidden),
                self._dtype,
                self._top_k,
                _scratch.address,
                calls,
            )

    def _look(self, count: int, indices: Array | None, sampled: bool, ns: int) -> None:
        """Tells who wants to know how a call was routed."""
        if indices is None:
            indices = _routing.view(np.int32, count * self._top_k)
        counts = pairs_per_expert(self.problem, indices)
        if sampled:
            self._counters.sample(count, counts)
        for recorder in traffic.recorders:
            recorder.record(self.problem, count, counts, ns)

    def _plain(self, out: Any, shape: tuple[int, ...]) -> bool:
        fits = type(out) is np.ndarray and out.shape == shape and out.dtype is self._dtype
        return fits and bool(out.flags.writeable)

    def _writable(self, out: Any, shape: tuple[int, ...]) -> Array:
        array = to_numpy(out)
        fits = array.shape == shape and array.dtype == self._dtype
        if not (fits and array.flags.c_contiguous and array.flags.writeable):
            self._refuse("out", array, str(shape[0]), ", C-contiguous and writable")
        return array

    def _refuse(self, name: str, array: Array, rows: str, more: str = "") -> None:
        raise UsageError(
            f"{name}: has shape {list(array.shape)} {array.dtype}, must be "
            f"[{rows}, {self._hidden}] {self._dtype}{more}; reshape or cast it"
        )


class _Engine:
    """A kernel on a layer's weights, with the scratch memory that it wants."""

    def __init__(self, kernel: Kernel, bound: Bound) -> None:
        self.keeps, self.bound = kernel.scratch_keep, bound
        self._scratch_bytes = kernel.scratch_bytes

    def run(self, tokens: int, x: int, y: int, indices: int, weights: int) -> None:
        """One call, on addresses; the caller holds REGION."""
        size = self._scratch_bytes(tokens) + 4
        if self.keeps:
            self.bound.run(tokens, x, y, _scratch.of(size), indices, weights)
        else:
            fresh = allocate(size, np.uint8)
            self.bound.run(tokens, x, y, fresh.ctypes.data, indices, weights)


def _place(array: Array) -> int:
    """The address of an array, in less time than `array.ctypes.data` takes."""
    return int(array.__array_interface__["data"][0])


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
