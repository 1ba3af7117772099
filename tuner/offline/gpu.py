"""Measuring on a GPU: device events, the L2 cache flushed, calls as CUDA graphs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tuner.gpu import pack, ptx
from tuner.gpu.driver import Device
from tuner.gpu.kernel import GpuKernel, upload
from tuner.measure import gpu_peak, verify
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.offline import data as job_data
from tuner.offline import job as jobs
from tuner.offline.job import Job
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload

COPIES = 2
TRIAL_S = 60.0
WHERE = "run this where an NVIDIA GPU of the job's target is"
_WARM_UPS = 3
_TRIAL_ROUNDS = 15
_FINAL_ROUNDS = 60


def cores(job: Job) -> frozenset[int]:
    """All that there are: what is timed does not run on them."""
    return frozenset(os.sched_getaffinity(0))


def write(problem: Problem, weights: Weights, data: Path) -> None:
    """Writes the packed form that `weights_of` reads."""
    for name, array in pack.pack(problem, weights).items():
        job_data.save(data, name, array)


def weights_of(data: Path, problem: Problem) -> dict[str, NDArray[Any]]:
    """The packed weights, mapped from their files."""
    names = (*pack.packed_shapes(problem), "router", "router_bias", "correction")
    names = (*names, "gate_bias", "up_bias", "down_bias")
    return {name: job_data.saved(data, name) for name in names}


def open_bench(folder: Path, data: Path) -> JobOnGpu:
    """Raises KernelError where there is no card, or no driver."""
    return JobOnGpu(folder, data)


class JobOnGpu:
    """A card with a job's weights in its memory, and the job's programs by name."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.job = folder, data, jobs.read(folder)
        problem, card = self.job.layer, Device()
        probe = GpuProbe(card, self._program(self.job.probe))
        self.bench = GpuBench(card, problem, upload(card, weights_of(data, problem)), probe)
        self._kernels: dict[str, GpuKernel] = {}
        self._answers: dict[verify.Case, verify.Expected] | None = None

    def kernel(self, name: str) -> GpuKernel:
        """A variant, loaded once."""
        if name not in self._kernels:
            program = self._program(self.job.variant(name).file)
            self._kernels[name] = GpuKernel(self.bench.device, program)
        return self._kernels[name]

    def _program(self, file: str) -> ptx.Program:
        return ptx.parse((self.folder / file).read_text())

    def check(self, name: str, tokens: int) -> str:
        """Runs all cases of a token count; what was wrong, or nothing."""
        if self._answers is None:
            self._answers = job_data.answers_of(self.data)
        kernel = self.kernel(name)
        for case in verify.cases(self.job.layer, tokens, self.job.ragged(name), self.job.seed):
            if wrong := self.bench.check(kernel, self._answers[case])[0]:
                return f"T={case.tokens} {case.load}: {wrong}"
        return ""

    def race(self, names: Sequence[str], tokens: int, final: bool) -> dict[str, Any]:
        """Times (ns) of variants that run in turn, the L2 cache flushed before each: [variant][round]."""
        rounds = _FINAL_ROUNDS if final else _TRIAL_ROUNDS
        workload = Workload(tokens, self.job.load)
        ready = [self.bench.ready(self.kernel(name), workload, self.job.seed) for name in names]
        times = self.bench.in_turn([work for work, _ in ready], rounds, _WARM_UPS)
        for _, arena in ready:
            arena.free()
        return {"samples": times}

    def device(self) -> dict[str, Any]:
        """What the card is, and its ceilings now."""
        card, dense = self.bench.device, self._program(self.job.dense)
        return {
            "name": card.name,
            "multiprocessors": card.multiprocessors,
            "l2_bytes": card.l2_bytes,
            "memory_bytes": card.memory_bytes,
            "driver": card.driver_version,
            "clocks": _clocks(),
            **{f"{name}_gb_s": rate for name, rate in self.bench.ceilings().items()},
            "dense_gflop_s": gpu_peak.gflop_s(card, dense, self.job.layer.dtype, self.bench.probe),
        }


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
