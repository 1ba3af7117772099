"""Runtime on a GPU: a layer on the caller's device arrays and stream, launches alone in the steady call."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from tuner.errors import UsageError
from tuner.gpu import scratch
from tuner.gpu.arrays import ALIGNMENT, Borrowed, borrow, empty, stream_of
from tuner.gpu.driver import Address, Device
from tuner.gpu.kernel import Call, GpuKernel, io_sizes
from tuner.gpu.scratch import Layout
from tuner.gpu.weights import GpuWeights
from tuner.host.arguments import require
from tuner.problem.arrays import is_torch
from tuner.problem.dtypes import DTYPES
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload
from tuner.runtime import shown
from tuner.runtime.catalogue import Catalogue
from tuner.runtime.dispatch import Dispatch
from tuner.runtime.gpu_programs import Programs
from tuner.runtime.stats import Counters, Stats
from tuner.select.selection import Selection

# Calls that are kept ready, by token count and stream: each is some KiB.
_MOST_CALLS = 64
_ROUTING = {"indices": "int32", "weights": "float32"}


class _Ready(NamedTuple):
    """A call, the block of scratch memory that it uses, and where a routing goes that nobody asked for."""

    call: Call
    block: Address
    routing: dict[str, Address]


class GpuLayer:
    """One MoE layer on a GPU: `layer(x)` is y [T, D] for x [T, D], both in its memory.

    Made by `tuner.load(..., device=...)`. A call launches kernels on the caller's stream and returns before
    they have run; it waits for nothing, copies nothing, and takes no memory but the answer's (none with `out`).
    Only the first call of a stream with so many tokens takes scratch memory, and the first of a bucket loads
    its program. So it can be captured in a CUDA graph. Threads and streams may share a layer.
    """

    def __init__(
        self, catalogue: Catalogue, weights: Weights, device: Device, load: str = "uniform"
    ) -> None:
        start = time.perf_counter()
        self.problem, self.load = catalogue.problem, Workload(1, load).load
        self._row_bytes = self.problem.hidden * DTYPES[self.problem.dtype].bytes
        self.device = f"cuda:{device.index}"
        self._device = device
        self._dispatch = Dispatch(catalogue, self.load)
        self._programs = Programs(catalogue, self._dispatch, device)
        self._counters = Counters(len(self._dispatch.buckets))
        self._scratch = scratch.of(device)
        self._calls: OrderedDict[tuple[int, int], _Ready] = OrderedDict()
        with device.lock, device.current():
            packing = self._programs.of(0).program.packing
            packed = time.perf_counter()
            self._weights = GpuWeights(device, self.problem, packing, weights)
        end = time.perf_counter()
        self._load_ms, self._pack_ms = 1e3 * (end - start), 1e3 * (end - packed)

    def __call__(
        self, x: Any, return_routing: bool = False, out: Any = None, stream: Any = None
    ) -> Any:
        """y [T, D]; with `return_routing` also indices int32 [T, k] and weights float32 [T, k].

        `x` is [T, D] of the problem's dtype on this GPU, C-contiguous: a torch tensor, or anything with
        DLPack, which then needs `out`. T may be 0. y is written to `out` where that is given: like x, and not
        overlapping it. `stream` is torch's current one unless given: a torch stream, anything with
        `__cuda_stream__`, or its handle; for others than torch it is the default stream.

        Raises UsageError where x or `out` does not fit, CudaError where the driver refuses a launch.
        """
        handle = stream_of(self._device.index, x, stream)
        follows = None if is_torch(x) or self._captures(handle) else handle
        given = borrow("x", x, follows)
        self._check("x", given, "T")
        if not is_torch(x) and (out is None or return_routing):
            kind = type(x).__name__
            raise UsageError(f"x: is a {kind}: give out=, and no return_routing, which is torch's")
        y, written = self._answer(out, given, handle, follows)
        places = {"x": given.address, "y": written}
        routing: list[Any] = []
        if return_routing:
            for name, dtype in _ROUTING.items():
                shape = (given.shape[0], self.problem.top_k)
                made = empty(self._device.index, handle, shape, dtype)
                routing.append(made)
                places[name] = made.data_ptr()
        if given.shape[0]:
            self._run(given.shape[0], places, handle, is_torch(x))
        return (y, *routing) if return_routing else y

    def __repr__(self) -> str:
        return shown.line("GpuLayer", self.problem, self.device, self._dispatch.buckets)

    def _repr_html_(self) -> str:
        return shown.table("GpuLayer", self.problem, self.device, self._dispatch.buckets)

    def __reduce__(self) -> Any:
        """Neither copied nor pickled: what it holds belongs to this process."""
        raise UsageError(
            "GpuLayer: cannot be copied or pickled; share it, or load it from the weights again"
        )

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why."""
        return self._dispatch.selection(Workload(tokens).tokens)

    def prepare(self, tokens: Iterable[int], stream: Any = None) -> None:
        """Loads the programs (compiles those that the cache lacks) and takes the scratch memory of a stream,
        the default one unless given, ahead of the first call."""
        require("tokens", tokens, Iterable)
        handle = stream_of(self._device.index, None, stream)
        with self._device.lock, self._device.current():
            for count in tokens:
                self._made(max(Workload(count).tokens, 1), handle)

    def stats(self) -> Stats:
        """What the layer did so far: calls by token count and variant. Replays of a graph count nothing, and
        nobody looks at the routing, which stays on the GPU."""
        with self._device.lock:
            return self._counters.tell(
                self._dispatch.buckets,
                load_ms=self._load_ms,
                pack_ms=self._pack_ms,
                packed_bytes=self._weights.bytes,
                shared=False,
            )

    def _run(self, tokens: int, places: Mapping[str, Address], stream: int, torch: bool) -> None:
        """One call with at least one token. ``places`` are inputs and outputs."""
        device, kept = self._device, None
        with device.lock, device.current():
            if device.is_capturing(stream):
                ready, kept = self._captured(tokens, stream, torch)
            else:
                ready = self._ready(tokens, stream)
            arguments = ready.call.arguments
            for name, address in {**ready.routing, **places}.items():
                arguments[name].value = address
            ready.call.run(stream)
            self._counters.count(self._dispatch.bucket(tokens), tokens)
        del kept  # torch may give it to what comes next on the stream

    def _captures(self, stream: int) -> bool:
        with self._device.current():
            return self._device.is_capturing(stream)

    def _ready(self, tokens: int, stream: int) -> _Ready:
        """The call as it was made before, unless the stream's scratch memory has moved."""
        ready = self._calls.get((tokens, stream))
        if ready is not None and ready.block == self._scratch.block(stream):
            return ready
        return self._made(tokens, stream)

    def _made(self, tokens: int, stream: int) -> _Ready:
        """A call on the stream's own scratch memory, kept for the next one with as many tokens."""
        program = self._programs.of(self._dispatch.bucket(tokens))
        layout = self._layout(program, tokens)
        block = self._scratch.of(stream, layout.bytes, captured=False)
        ready = self._calls[tokens, stream] = self._placed(program, tokens, layout, block)
        if len(self._calls) > _MOST_CALLS:
            self._calls.popitem(last=False)
        return ready

    def _captured(self, tokens: int, stream: int, torch: bool) -> tuple[_Ready, Any]:
        """A call inside the capture of a graph, and what holds its scratch memory until it is launched.

        A torch graph keeps what was allocated while it was captured, so each has scratch memory of its own.
        Others use the stream's, which is never freed then.
        """
        program = self._programs.of(self._dispatch.bucket(tokens))
        layout = self._layout(program, tokens)
        if torch:
            kept = empty(self._device.index, stream, (layout.bytes,), "uint8")
            return self._placed(program, tokens, layout, kept.data_ptr()), kept
        block = self._scratch.of(stream, layout.bytes, captured=True)
        return self._placed(program, tokens, layout, block), None

    def _placed(self, program: GpuKernel, tokens: int, layout: Layout, block: Address) -> _Ready:
        places = {**self._weights.addresses, **layout.at(block), "x": 0, "y": 0}
        call = Call(self._device, program, places, tokens, routed=False)
        return _Ready(call, block, {name: places[name] for name in _ROUTING})

    def _layout(self, program: GpuKernel, tokens: int) -> Layout:
        """Scratch memory of a call, with room for a routing that nobody asked for."""
        io = io_sizes(self.problem, tokens)
        return Layout({**program.scratch_sizes(tokens), **{name: io[name] for name in _ROUTING}})

    def _answer(
        self, out: Any, x: Borrowed, stream: int, follows: int | None
    ) -> tuple[Any, Address]:
        """The array that gets y, and its address."""
        if out is None:
            made = empty(self._device.index, stream, x.shape, self.problem.dtype)
            return made, made.data_ptr()
        given = borrow("out", out, follows)
        self._check("out", given, str(x.shape[0]))
        if abs(given.address - x.address) < x.shape[0] * self._row_bytes:
            raise UsageError("out: overlaps x, which kernels still read; give other memory")
        return out, given.address

    def _check(self, name: str, array: Borrowed, rows: str) -> None:
        fits = len(array.shape) == 2 and rows in ("T", str(array.shape[0]))
        fits = fits and array.shape[1] == self.problem.hidden and array.dtype == self.problem.dtype
        where = array.device == self._device.index and array.address % ALIGNMENT == 0
        if not (fits and where and array.contiguous):
            raise UsageError(
                f"{name}: {array.describe()}, must be [{rows}, {self.problem.hidden}] {self.problem.dtype} on "
                f"{self.device}, C-contiguous, at a multiple of {ALIGNMENT} bytes; "
                f"{name}.to({self.device!r}).contiguous() makes it so"
            )
