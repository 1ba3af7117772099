"""One variant of a job, in a process of its own: load, verify, race against the default.

Prints a JSON line for each token count as it ends, so that a crash or a time limit loses only what was not
printed. `python -m tuner.job_trial FOLDER DATA trial VARIANT TOKENS[,TOKENS]`, or `final TOKENS
VARIANT[,VARIANT]`, or `device`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import job as jobs
from tuner import job_data, ptx, verify
from tuner.arrays import NUMPY_DTYPES
from tuner.cuda import Device
from tuner.errors import KernelError
from tuner.gpu_layer import Arena, Call, GpuKernel, io_sizes, scratch_sizes, upload
from tuner.job import Job
from tuner.problem import Problem
from tuner.workload import Workload, route_by_load

_FLUSH_BYTES = 256 << 20  # several times the L2 cache of any card
_COPY_BYTES = 1 << 30
_WARM_UPS = 3
_TRIAL_ROUNDS = 15
_FINAL_ROUNDS = 60


class Bench:
    """A device with a job's weights in its memory."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.job = folder, jobs.read(folder)
        self.problem: Problem = self.job.layer
        self.device = Device()
        self.weights = upload(self.device, job_data.weights_of(data, self.problem))
        self.stream = self.device.stream()
        self._flush = self.device.alloc(_FLUSH_BYTES)
        self._kernels: dict[str, GpuKernel] = {}

    def kernel(self, name: str) -> GpuKernel:
        """A variant, loaded once."""
        if name not in self._kernels:
            text = (self.folder / self.job.variant(name).file).read_text()
            self._kernels[name] = GpuKernel(self.device, ptx.parse(text))
        return self._kernels[name]

    def arena(self, kernel: GpuKernel, tokens: int) -> Arena:
        sizes = {
            **io_sizes(self.problem, tokens),
            **scratch_sizes(self.problem, tokens, kernel.facts["tile_n"]),
        }
        return Arena(self.device, sizes)

    def call(self, kernel: GpuKernel, arena: Arena, tokens: int, routed: bool) -> Call:
        buffers = {name: piece.address for name, piece in arena.pieces.items()}
        return Call(self.device, kernel, self.problem, {**self.weights, **buffers}, tokens, routed)

    def check(self, kernel: GpuKernel, expected: verify.Expected) -> str:
        """Runs one case on poisoned, guarded buffers; what was wrong, or nothing."""
        case, problem, device = expected.case, self.problem, self.device
        arena = self.arena(kernel, case.tokens)
        device.upload(expected.x, arena["x"])
        if expected.routed:
            device.upload(expected.indices, arena["indices"])
            device.upload(expected.weights.astype(np.float32), arena["weights"])
        self.call(kernel, arena, case.tokens, expected.routed).run(0)
        device.wait()
        x, y = np.empty_like(expected.x), np.empty_like(expected.x)
        indices = np.empty((case.tokens, problem.top_k), np.int32)
        weights = np.empty((case.tokens, problem.top_k), np.float32)
        for name, array in (("x", x), ("y", y), ("indices", indices), ("weights", weights)):
            device.download(arena[name], array)
        outside = arena.broken()
        arena.free()
        if outside:
            return f"{outside}: written outside its bytes"
        if x.tobytes() != expected.x.tobytes():
            return "x: was written to"
        return verify.compare(expected, y, indices, weights)[0]

    def race(self, names: Sequence[str], tokens: int, rounds: int) -> list[list[float]]:
        """Times (ns) of variants that run in turn, the L2 cache flushed before each: [variant][round]."""
        x, routing = _tokens(self.job, self.problem, tokens)
        works: list[Callable[[], None]] = []
        arenas = []
        for name in names:
            kernel = self.kernel(name)
            arena = self.arena(kernel, tokens)
            arenas.append(arena)
            self.device.upload(x, arena["x"])
            if routing:
                self.device.upload(routing[0], arena["indices"])
                self.device.upload(routing[1], arena["weights"])
            call = self.call(kernel, arena, tokens, routing is not None)
            call.run(self.stream)
            self.device.wait(self.stream)
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
        return times

    def replayed(self, call: Call) -> Callable[[], None]:
        """The call as a graph."""
        graph = self.device.graph(call.run, self.stream)
        return lambda: self.device.replay(graph, self.stream)

    def timed(self, work: Callable[[], None], flush: bool = True) -> float:
        """Nanoseconds of some work between two events of the device."""
        start, end = self.device.event(), self.device.event()
        if flush:
            self.device.fill(self._flush, 0x5A, _FLUSH_BYTES, self.stream)
        self.device.record(start, self.stream)
        work()
        self.device.record(end, self.stream)
        self.device.wait(self.stream)
        return self.device.elapsed_ns(start, end)

    def copy_gb_s(self) -> float:
        """Bytes read and written in a second by the device's own copy, in 10^9."""
        here, there = self.device.alloc(_COPY_BYTES), self.device.alloc(_COPY_BYTES)
        self.device.fill(here, 0x3C, _COPY_BYTES, self.stream)
        work = lambda: self.device.copy(there, here, _COPY_BYTES, self.stream)  # noqa: E731
        taken = float(np.median([self.timed(work) for _ in range(10)]))
        self.device.free(here)
        self.device.free(there)
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


def say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, sort_keys=True), flush=True)


def trial(bench: Bench, data: Path, name: str, counts: Sequence[int]) -> None:
    """A variant on its token counts: verified on each, then raced against that count's default."""
    answers = job_data.answers_of(data)
    kernel = bench.kernel(name)
    for tokens in counts:
        start = time.perf_counter()
        cases = verify.cases(bench.problem, tokens, kernel.facts["tile_n"], bench.job.seed)
        wrong = next(((c, m) for c in cases if (m := bench.check(kernel, answers[c]))), None)
        verify_ms = 1e3 * (time.perf_counter() - start)
        line = {"kind": "trial", "variant": name, "tokens": tokens, "verify_ms": verify_ms}
        if wrong:
            case, message = wrong
            say({**line, "status": "wrong", "message": f"T={case.tokens} {case.load}: {message}"})
            continue
        default = bench.job.default(tokens)
        start = time.perf_counter()
        times = bench.race([default, name] if default != name else [name], tokens, _TRIAL_ROUNDS)
        spent = 1e3 * (time.perf_counter() - start)
        say(
            {
                **line,
                "status": "ok",
                "samples": times[-1],
                "default_samples": times[0],
                "benchmark_ms": spent,
            }
        )


def device(bench: Bench) -> None:
    """What the device is, and its copy bandwidth now."""
    card = bench.device
    say(
        {
            "kind": "device",
            "name": card.name,
            "multiprocessors": card.multiprocessors,
            "l2_bytes": card.l2_bytes,
            "memory_bytes": card.memory_bytes,
            "driver": card.driver_version,
            "copy_gb_s": bench.copy_gb_s(),
        }
    )


def main(arguments: Sequence[str]) -> int:
    folder, data, what, *rest = arguments
    try:
        bench = Bench(Path(folder), Path(data))
        if what == "device":
            device(bench)
        elif what == "trial":
            trial(bench, Path(data), rest[0], [int(t) for t in rest[1].split(",")])
        else:
            names = rest[1].split(",")
            times = bench.race(names, int(rest[0]), _FINAL_ROUNDS)
            say({"kind": "final", "tokens": int(rest[0]), "variants": names, "samples": times})
    except KernelError as error:
        say({"kind": "error", "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
