"""A problem's weights on a GPU, and what is done with its programs there: check against right answers, time.

Buffers are guarded and start as NaN; times are between two events of the device, the L2 cache flushed before
(see ``tuner.measure.gpu_probe``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.gpu.driver import Address, Device
from tuner.gpu.kernel import Arena, Call, GpuKernel, io_sizes
from tuner.gpu.pack import Packing
from tuner.measure import verify
from tuner.measure.gpu_probe import FLUSH_BYTES, GpuProbe
from tuner.measure.right_answers import Expected
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.workload import Workload, route_by_load

_RATE_BYTES = 1 << 30  # copied or read to tell a bandwidth
_RATE_ROUNDS = 10


class GpuBench:
    """A device with a layer's packed weights in its memory; ``weights`` tells where they lie in the form that a
    program reads."""

    def __init__(
        self,
        device: Device,
        problem: Problem,
        weights: Callable[[Packing], Mapping[str, Address]],
        probe: GpuProbe,
    ) -> None:
        self.device, self.problem, self.weights, self.probe = device, problem, weights, probe
        self.stream = device.stream()

    def arena(self, kernel: GpuKernel, tokens: int) -> Arena:
        sizes = {**io_sizes(self.problem, tokens), **kernel.scratch_sizes(tokens)}
        return Arena(self.device, sizes)

    def call(self, kernel: GpuKernel, arena: Arena, tokens: int, routed: bool) -> Call:
        buffers = {name: piece.address for name, piece in arena.pieces.items()}
        weights = self.weights(kernel.program.packing)
        return Call(self.device, kernel, {**weights, **buffers}, tokens, routed)

    def check(self, kernel: GpuKernel, expected: Expected) -> tuple[str, float]:
        """Runs one case; what was wrong (or nothing), and the relative error."""
        return verify.check(expected, lambda x: self._guarded_run(kernel, expected, x))

    def _guarded_run(
        self, kernel: GpuKernel, expected: Expected, tokens: NDArray[Any]
    ) -> verify.Answered:
        """One call on poisoned, guarded buffers."""
        problem, device, count = self.problem, self.device, len(tokens)
        arena = self.arena(kernel, count)
        device.upload(tokens, arena["x"])
        if expected.routed:
            device.upload(expected.indices, arena["indices"])
            device.upload(expected.weights.astype(np.float32), arena["weights"])
        self.call(kernel, arena, count, expected.routed).run(0)
        device.wait()
        x, y = np.empty_like(tokens), np.empty_like(tokens)
        indices = np.empty((count, problem.top_k), np.int32)
        weights = np.empty((count, problem.top_k), np.float32)
        for name, array in (("x", x), ("y", y), ("indices", indices), ("weights", weights)):
            device.download(arena[name], array)
        outside = arena.broken()
        arena.free()
        wrong = f"{outside}: written outside its bytes" if outside else ""
        if not wrong and x.tobytes() != tokens.tobytes():
            wrong = "x: was written to"
        return verify.Answered(y, indices, weights, wrong)

    def ready(
        self, kernel: GpuKernel, workload: Workload, seed: int
    ) -> tuple[Callable[[], None], Arena]:
        """A call on random tokens that has run once, as a graph, and its buffers.

        Random tokens and weights route uniformly: only other loads are imposed.
        """
        problem, tokens = self.problem, workload.tokens
        rng = np.random.default_rng([seed, tokens])
        x = rng.standard_normal((tokens, problem.hidden), dtype=np.float32)
        arena = self.arena(kernel, tokens)
        self.device.upload(x.astype(NUMPY_DTYPES[problem.dtype]), arena["x"])
        imposed = workload.load != "uniform"
        if imposed:
            for name, array in zip(
                ("indices", "weights"), route_by_load(problem, workload, seed), strict=True
            ):
                self.device.upload(array, arena[name])
        call = self.call(kernel, arena, tokens, imposed)
        call.run(self.stream)
        self.device.wait(self.stream)
        return self.replayed(call), arena

    def in_turn(
        self, works: Sequence[Callable[[], None]], rounds: int, warm_ups: int
    ) -> list[list[float]]:
        """Times (ns) by work and round, each round begun by another one; the warm-ups' are not kept."""
        times: list[list[float]] = [[] for _ in works]
        for number in range(rounds + warm_ups):
            for place in range(len(works)):
                which = (place + number) % len(works)
                taken = self.timed(works[which])
                if number >= warm_ups:
                    times[which].append(taken)
        return times

    def replayed(self, call: Call) -> Callable[[], None]:
        """The call as a graph."""
        graph = self.device.graph(call.run, self.stream)
        return lambda: self.device.replay(graph, self.stream)

    def timed(self, work: Callable[[], None], before: Callable[[int], None] | None = None) -> float:
        """Nanoseconds of some work between two events of the device, after a flush or ``before(stream)``."""
        start, end = self.device.event(), self.device.event()
        (before or self.probe.flush)(self.stream)
        self.device.record(start, self.stream)
        work()
        self.device.record(end, self.stream)
        self.device.wait(self.stream)
        return self.device.elapsed_ns(start, end)

    def read_gb_s(self) -> float:
        """Bytes that the probe's kernel reads in a second, in 10^9."""
        source = self.probe.buffer(_RATE_BYTES, self.stream)
        reading = self.probe.reading(source, _RATE_BYTES)
        taken = [self.timed(lambda: reading.start(self.stream)) for _ in range(_RATE_ROUNDS)]
        self.device.free(source)
        return _RATE_BYTES / float(np.median(taken))

    def copy_gb_s(self) -> float:
        """Bytes read and written in a second by the device's own copy, in 10^9."""
        here = self.probe.buffer(_RATE_BYTES, self.stream)
        there, other = self.device.alloc(_RATE_BYTES), self.device.alloc(FLUSH_BYTES)

        def copy() -> None:
            self.device.copy(there, here, _RATE_BYTES, self.stream)

        def write(stream: int) -> None:
            # A copy ends with lines in the cache that are not written back yet: so it has to begin.
            self.device.fill(other, 0, FLUSH_BYTES, stream)

        taken = [self.timed(copy, write) for _ in range(_RATE_ROUNDS)]
        for address in (here, there, other):
            self.device.free(address)
        return 2 * _RATE_BYTES / float(np.median(taken))

    def ceilings(self) -> dict[str, float]:
        """The bandwidths that a call's can be compared with, in GB/s, by name; the highest is the ceiling."""
        return {"copy": self.copy_gb_s(), "read": self.read_gb_s()}
