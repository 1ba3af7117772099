"""Measuring on a GPU: device events, the L2 cache flushed, calls as CUDA graphs."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tuner.gpu import pack, ptx
from tuner.gpu.driver import Device
from tuner.gpu.kernel import upload
from tuner.measure.cuda_bench import CudaBench
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.offline import data as job_data
from tuner.offline import job as jobs
from tuner.offline.job import Job
from tuner.problem import Problem
from tuner.problem.weights import Weights

COPIES = 2
TRIAL_S = 60.0
WHERE = "run this where an NVIDIA GPU of the job's target is"


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


def open_bench(folder: Path, data: Path) -> CudaBench:
    """A card with a job's weights in its memory. Raises KernelError where there is none, or no driver."""
    job = jobs.read(folder)
    answers = job_data.answers_of(data)
    return CudaBench(card_of(job, folder, data), job.seed, answers, folder / job.dense)


def card_of(job: Job, folder: Path, data: Path) -> GpuBench:
    """The first card here, with the weights that `write` wrote."""
    card = Device()
    probe = GpuProbe(card, ptx.parse((folder / job.probe).read_text()))
    return GpuBench(card, job.layer, upload(card, weights_of(data, job.layer)), probe)


def device(bench: CudaBench) -> dict[str, Any]:
    """What the card is, and its ceilings now."""
    card = bench.gpu.device
    return {
        "name": card.name,
        "multiprocessors": card.multiprocessors,
        "l2_bytes": card.l2_bytes,
        "memory_bytes": card.memory_bytes,
        "driver": card.driver_version,
        "clocks": _clocks(),
        **dataclasses.asdict(bench.ceilings()),
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
