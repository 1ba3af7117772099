"""Measuring on a GPU: device events, the L2 cache flushed, calls as CUDA graphs. See ``job_bench``."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import gpu_pack, job_data, ptx, verify
from tuner import job as jobs
from tuner.arrays import NUMPY_DTYPES
from tuner.cuda import Device
from tuner.gpu_layer import Arena, Call, GpuKernel, io_sizes, scratch_sizes, upload
from tuner.job import Job
from tuner.problem import Problem
from tuner.weights import Weights
from tuner.workload import Workload, route_by_load

TILE = "tile_n"
COPIES = 2
TRIAL_S = 60.0
WHERE = "run this where an NVIDIA GPU of the job's target is"
_FLUSH_BYTES = 256 << 20  # several times the L2 cache of any card
_COPY_BYTES = 1 << 30
_WARM_UPS = 3
_TRIAL_ROUNDS = 15
_FINAL_ROUNDS = 60


def cores(job: Job) -> frozenset[int]:
    """All that there are: what is timed does not run on them."""
    return frozenset(os.sched_getaffinity(0))


def write(problem: Problem, weights: Weights, data: Path) -> None:
    """Writes the packed form that `weights_of` reads."""
    for name, array in gpu_pack.pack(problem, weights).items():
        job_data.save(data, name, array)


def weights_of(data: Path, problem: Problem) -> dict[str, NDArray[Any]]:
    """The packed weights, mapped from their files."""
    names = (*gpu_pack.packed_shapes(problem), "router", "router_bias", "correction")
    names = (*names, "gate_bias", "up_bias", "down_bias")
    return {name: job_data.saved(data, name) for name in names}


def open_bench(folder: Path, data: Path) -> GpuBench:
    """Raises KernelError where there is no card, or no driver."""
    return GpuBench(folder, data)


class GpuBench:
    """A card with a job's weights in its memory."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.job = folder, data, jobs.read(folder)
        self.problem: Problem = self.job.layer
        self.card = Device()
        self.weights = upload(self.card, weights_of(data, self.problem))
        self.stream = self.card.stream()
        self._flush = self.card.alloc(_FLUSH_BYTES)
        self._kernels: dict[str, GpuKernel] = {}
        self._answers: dict[verify.Case, verify.Expected] | None = None

    def kernel(self, name: str) -> GpuKernel:
        """A variant, loaded once."""
        if name not in self._kernels:
            text = (self.folder / self.job.variant(name).file).read_text()
            self._kernels[name] = GpuKernel(self.card, ptx.parse(text))
        return self._kernels[name]

    def arena(self, kernel: GpuKernel, tokens: int) -> Arena:
        sizes = {
            **io_sizes(self.problem, tokens),
            **scratch_sizes(self.problem, tokens, kernel.facts["tile_n"]),
        }
        return Arena(self.card, sizes)

    def call(self, kernel: GpuKernel, arena: Arena, tokens: int, routed: bool) -> Call:
        buffers = {name: piece.address for name, piece in arena.pieces.items()}
        return Call(self.card, kernel, self.problem, {**self.weights, **buffers}, tokens, routed)

    def check(self, name: str, tokens: int) -> str:
        """Runs all cases of a token count; what was wrong, or nothing."""
        if self._answers is None:
            self._answers = job_data.answers_of(self.data)
        kernel = self.kernel(name)
        for case in verify.cases(self.problem, tokens, kernel.facts["tile_n"], self.job.seed):
            if wrong := self.check_case(kernel, self._answers[case]):
                return f"T={case.tokens} {case.load}: {wrong}"
        return ""

    def check_case(self, kernel: GpuKernel, expected: verify.Expected) -> str:
        """Runs one case on poisoned, guarded buffers; what was wrong, or nothing."""
        case, problem, card = expected.case, self.problem, self.card
        arena = self.arena(kernel, case.tokens)
        card.upload(expected.x, arena["x"])
        if expected.routed:
            card.upload(expected.indices, arena["indices"])
            card.upload(expected.weights.astype(np.float32), arena["weights"])
        self.call(kernel, arena, case.tokens, expected.routed).run(0)
        card.wait()
        x, y = np.empty_like(expected.x), np.empty_like(expected.x)
        indices = np.empty((case.tokens, problem.top_k), np.int32)
        weights = np.empty((case.tokens, problem.top_k), np.float32)
        for name, array in (("x", x), ("y", y), ("indices", indices), ("weights", weights)):
            card.download(arena[name], array)
        outside = arena.broken()
        arena.free()
        if outside:
            return f"{outside}: written outside its bytes"
        if x.tobytes() != expected.x.tobytes():
            return "x: was written to"
        return verify.compare(expected, y, indices, weights)[0]

    def race(self, names: Sequence[str], tokens: int, final: bool) -> dict[str, Any]:
        """Times (ns) of variants that run in turn, the L2 cache flushed before each: [variant][round]."""
        rounds = _FINAL_ROUNDS if final else _TRIAL_ROUNDS
        x, routing = _tokens(self.job, self.problem, tokens)
        works: list[Callable[[], None]] = []
        arenas = []
        for name in names:
            kernel = self.kernel(name)
            arena = self.arena(kernel, tokens)
            arenas.append(arena)
            self.card.upload(x, arena["x"])
            if routing:
                self.card.upload(routing[0], arena["indices"])
                self.card.upload(routing[1], arena["weights"])
            call = self.call(kernel, arena, tokens, routing is not None)
            call.run(self.stream)
            self.card.wait(self.stream)
            works.append(self.replayed(call))
        times: list[list[float]] = [[] for _ in names]
        for number in range(rounds + _WARM_UPS):
            for place in range(len(names)):
                which = (place + number) % len(names)
                taken = self.timed(works[which])
                if number >= _WARM_UPS:
                    times[which].append(taken)
        for arena in arenas:
            arena.free()
        return {"samples": times}

    def replayed(self, call: Call) -> Callable[[], None]:
        """The call as a graph."""
        graph = self.card.graph(call.run, self.stream)
        return lambda: self.card.replay(graph, self.stream)

    def timed(self, work: Callable[[], None], flush: bool = True) -> float:
        """Nanoseconds of some work between two events of the device."""
        start, end = self.card.event(), self.card.event()
        if flush:
            self.card.fill(self._flush, 0x5A, _FLUSH_BYTES, self.stream)
        self.card.record(start, self.stream)
        work()
        self.card.record(end, self.stream)
        self.card.wait(self.stream)
        return self.card.elapsed_ns(start, end)

    def device(self) -> dict[str, Any]:
        """What the card is, and its copy bandwidth now."""
        card = self.card
        return {
            "name": card.name,
            "multiprocessors": card.multiprocessors,
            "l2_bytes": card.l2_bytes,
            "memory_bytes": card.memory_bytes,
            "driver": card.driver_version,
            "clocks": _clocks(),
            "copy_gb_s": self.copy_gb_s(),
        }

    def copy_gb_s(self) -> float:
        """Bytes read and written in a second by the device's own copy, in 10^9."""
        here, there = self.card.alloc(_COPY_BYTES), self.card.alloc(_COPY_BYTES)
        self.card.fill(here, 0x3C, _COPY_BYTES, self.stream)
        work = lambda: self.card.copy(there, here, _COPY_BYTES, self.stream)  # noqa: E731
        taken = float(np.median([self.timed(work) for _ in range(10)]))
        self.card.free(here)
        self.card.free(there)
        return 2 * _COPY_BYTES / taken


def _tokens(
    job: Job, problem: Problem, tokens: int
) -> tuple[NDArray[Any], tuple[NDArray[np.int32], NDArray[np.float32]] | None]:
    """Tokens of a race, and the routing where the load is not the router's own.

    Random tokens and weights route uniformly: only other loads are imposed.
    """
    rng = np.random.default_rng([job.seed, tokens])
    x = rng.standard_normal((tokens, problem.hidden), dtype=np.float32).astype(
        NUMPY_DTYPES[problem.dtype]
    )
    imposed = (
        None
        if job.load == "uniform"
        else route_by_load(problem, Workload(tokens, job.load), job.seed)
    )
    return x, imposed


def _clocks() -> str:
    """Clocks now, as the driver's tool tells them; they are read, never set. Empty where it is not there."""
    query = [
        "nvidia-smi",
        "--query-gpu=clocks.sm,clocks.mem,temperature.gpu",
        "--format=csv,noheader",
    ]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
