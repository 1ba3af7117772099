"""Runtime: a layer that packs its weights once and picks the kernel by token count at each call."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.cpu.buffers import Room, address
from tuner.cpu.kernel import Kernel
from tuner.cpu.worker_pool import REGION
from tuner.errors import UsageError
from tuner.host.arguments import require
from tuner.problem.arrays import (
    argument_to_numpy,
    dtype_name,
    held_dtype,
    is_torch,
    to_torch,
)
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, pairs_per_expert
from tuner.runtime import fast_path, shown, trace
from tuner.runtime.catalogue import Catalogue
from tuner.runtime.dispatch import Dispatch
from tuner.runtime.engine import SCRATCH, Engine, kernel_of
from tuner.runtime.packing import pack
from tuner.runtime.stats import Counters, Stats
from tuner.select.selection import Selection

Array = npt.NDArray[Any]

# Of calls whose routing nobody asked for: only the holder of REGION may use it.
_routing = Room()


class Layer:
    """One MoE layer on this machine: `layer(x)` is y [T, D] for x [T, D].

    Made by `load`. Several threads may call it at once; their calls run one after the other, each on
    all cores. Which kernel serves which token count is settled when the layer is made: what is tuned
    later serves layers that are loaded later.
    """

    # No dictionary: what a call reads of a layer lies together.
    __slots__ = (
        "__weakref__", "_by_kernel", "_catalogue", "_counters", "_dispatch", "_dtype", "_engines",
        "_firsts", "_fixed", "_hidden", "_hot", "_load_ms", "_pack_ms", "_packed", "_shared",
        "_top_k", "load", "problem",
    )  # fmt: skip

    def __init__(self, catalogue: Catalogue, weights: Weights, load: str = "uniform") -> None:
        start = time.perf_counter()
        self.problem = catalogue.problem
        self.load = Workload(1, load).load
        self._catalogue = catalogue
        self._dtype = held_dtype(self.problem.dtype)
        self._hidden, self._top_k = self.problem.hidden, self.problem.top_k
        self._dispatch = Dispatch(catalogue, self.load)
        self._firsts = self._dispatch.firsts
        self._engines: list[Engine | None] = [None] * len(self._firsts)
        self._by_kernel: dict[Kernel, Engine] = {}
        self._counters = Counters(len(self._firsts))
        self._fixed = fast_path.FixedCalls()
        # What a call looks up: names of modules and attributes lie in lines of their own.
        lookup = self._fixed.calls.get
        self._hot = (np.ndarray, self._dtype, lookup, REGION)
        kernel = kernel_of(catalogue, self._dispatch.buckets[0].selection)
        packing = time.perf_counter()
        self._packed, self._shared = pack(kernel, self._dispatch.pack, weights)
        end = time.perf_counter()
        self._load_ms, self._pack_ms = 1e3 * (end - start), 1e3 * (end - packing)

    def __call__(self, x: Any, return_routing: bool = False, out: Any = None) -> Any:
        """y [T, D]; with `return_routing` also indices int32 [T, k] and weights [T, k].

        `x` is [T, D] of the problem's dtype: NumPy (bfloat16 as ml_dtypes has it, or its bits in uint16
        where that is not installed), torch (then the answers are torch tensors) or anything with
        DLPack. T may be 0. y is written to `out` where that is given: C-contiguous, of the shape and
        type of x; it may be x itself. Raises UsageError when x or `out` has another shape or type.
        """
        array, dtype, fixed_call, region = self._hot
        if type(x) is array and x.dtype is dtype:
            # Written out, as each name that is looked up here would cost a microsecond.
            # `with`, as a signal's exception may come between `acquire()` and a `try`, but not in here.
            with region:
                shape = x.shape
                call = fixed_call(shape)
                if call is not None:
                    source, function, control, calls, ready, routed, places, answers = call
                    if out is None:
                        stock = routed if return_routing else ready
                        answer, words = (
                            stock.pop() if stock else answers.more(stock, return_routing)
                        )
                        source[...] = x
                        function(control, words)
                        calls[0] += 1
                        return answer
                    plain = type(out) is array and out.dtype is dtype and out.shape == shape
                    if plain and out.flags.carray and not return_routing:
                        place = places.get(id(out))
                        if place is not None and place[2].value == place[3]:
                            answer, words, _, _ = place
                        else:  # not seen before, or its memory is another one (`out.resize`)
                            answer, words = answers.own
                        source[...] = x
                        function(control, words)
                        calls[0] += 1
                        if answer is not out:
                            out[...] = answer
                            answers.remember(places, out)
                        return out
        return self._general(x, return_routing, out)

    def _general(self, x: Any, return_routing: bool, out: Any) -> Any:
        """A call on arrays wherever they are."""
        tokens = x if type(x) is np.ndarray else argument_to_numpy("x", x)
        shape = tokens.shape
        if len(shape) != 2 or shape[1] != self._hidden or tokens.dtype != self._dtype:
            self._refuse("x", tokens, "T")
        if not tokens.flags.c_contiguous:
            tokens = np.ascontiguousarray(tokens)
        y = np.empty(shape, self._dtype) if out is None else self._writable(out, shape)
        if out is not None and np.may_share_memory(tokens, y):
            tokens = tokens.copy()
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

    def __repr__(self) -> str:
        return shown.line("Layer", self.problem, "the CPU", self._dispatch.buckets)

    def _repr_html_(self) -> str:
        return shown.table("Layer", self.problem, "the CPU", self._dispatch.buckets)

    def __reduce__(self) -> Any:
        """Neither copied nor pickled: what it holds belongs to this process."""
        raise UsageError(
            "Layer: cannot be copied or pickled; share it, or load it from the weights again"
        )

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why."""
        return self._dispatch.selection(Workload(tokens).tokens)

    def prepare(self, tokens: Iterable[int]) -> None:
        """Compiles where the cache has no binary, and loads, ahead of the first call."""
        require("tokens", tokens, Iterable)
        for count in tokens:
            self._engine(self._dispatch.bucket(Workload(count).tokens))

    def stats(self) -> Stats:
        """What the layer did so far."""
        with REGION:
            return self._counters.tell(
                self._dispatch.buckets,
                load_ms=self._load_ms,
                pack_ms=self._pack_ms,
                packed_bytes=self._packed.panels.nbytes,
                shared=self._shared,
            )

    def _engine(self, bucket: int) -> Engine:
        """What runs the calls of a bucket; buckets of one kernel share it."""
        found = self._engines[bucket]
        if found is None:
            kernel = kernel_of(self._catalogue, self._dispatch.buckets[bucket].selection)
            if kernel not in self._by_kernel:
                self._by_kernel[kernel] = Engine(kernel, kernel.bind(self._packed))
            found = self._engines[bucket] = self._by_kernel[kernel]
        return found

    def _run(self, x: Array, y: Array, indices: Array | None, weights: Array | None) -> None:
        """One call on checked arrays; a routing that nobody asked for goes to memory of the process."""
        count = len(x)
        bucket = bisect_right(self._firsts, count) - 1
        engine = self._engines[bucket] or self._engine(bucket)
        source, target = address(x), address(y)
        with REGION:
            if indices is None or weights is None:
                place = _routing.of(8 * count * self._top_k)
                places = place, place + 4 * count * self._top_k
            else:
                places = address(indices), address(weights)
            listening = trace.recorders  # who starts to listen meanwhile gets the next call
            start = time.perf_counter_ns() if listening else 0
            engine.run(count, source, target, *places)
            ns = time.perf_counter_ns() - start if listening else 0
            wanted = self._counters.count(bucket, count)
            if wanted or listening:
                counts = self._pairs(count, indices)
                if wanted:
                    self._counters.sample(count, counts)
                for recorder in listening:
                    recorder.record(self.problem, count, counts, ns)
            if engine.keeps and not trace.recorders and fast_path.fits(x.shape, self._dtype):
                self._fix(bucket, engine, count)

    def _fix(self, bucket: int, engine: Engine, count: int) -> None:
        """Makes the next call with as many tokens a fixed one."""
        shape = (count, self._hidden)
        if shape not in self._fixed.calls:
            calls = self._counters.fixed(bucket, count)
            self._fixed.calls[shape] = fast_path.prepare(
                engine.bound, shape, self._dtype, self._top_k, SCRATCH.address, calls
            )

    def _pairs(self, count: int, indices: Array | None) -> Array:
        """How the call that just ran was routed: its pairs by expert [E]."""
        if indices is None:
            indices = _routing.view(np.int32, count * self._top_k)
        return pairs_per_expert(self.problem, indices)

    def _writable(self, out: Any, shape: tuple[int, ...]) -> Array:
        if is_torch(out) and out.is_neg():
            raise UsageError("out: is a tensor with its negative bit set; give out.resolve_neg()")
        array = argument_to_numpy("out", out)
        fits = array.shape == shape and array.dtype == self._dtype
        if not (fits and array.flags.c_contiguous and array.flags.writeable):
            self._refuse("out", array, str(shape[0]), ", C-contiguous and writable")
        return array

    def _refuse(self, name: str, array: Array, rows: str, more: str = "") -> None:
        raise UsageError(
            f"{name}: has shape {list(array.shape)} {array.dtype}, must be "
            f"[{rows}, {self._hidden}] {dtype_name(self._dtype)}{more}; reshape or cast it"
        )
