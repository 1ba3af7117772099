"""Measuring on a GPU: device events, the L2 cache flushed, calls as CUDA graphs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tuner.errors import CompileError, KernelError
from tuner.gpu import ptx
from tuner.gpu.driver import Device
from tuner.gpu.pack import Packing
from tuner.gpu.program import layer_program
from tuner.measure.cuda_bench import CudaBench, Uploads
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.offline import data as job_data
from tuner.offline import job as jobs
from tuner.offline.job import Job
from tuner.problem.weights import Weights

COPIES = 2
TRIAL_S = 60.0
WHERE = "run this where an NVIDIA GPU of the job's target is"


def cores(job: Job) -> frozenset[int]:
    """All that there are: what is timed does not run on them."""
    return frozenset(os.sched_getaffinity(0))


def write(job: Job, folder: Path, weights: Weights, data: Path) -> None:
    """Writes each packed form that the job's programs read, for `weights_of`."""
    for packing in _packings(job, folder).values():
        (data / packing.digest).mkdir()
        for name, array in packing.pack(weights).items():
            job_data.save(data / packing.digest, name, array)


def _packings(job: Job, folder: Path) -> dict[str, Packing]:
    """By digest. What is wrong with a program is said by its own trial, not by all."""
    found = {}
    for variant in job.variants:
        with contextlib.suppress(CompileError, KernelError):
            packing = _program(job, folder, variant.name).packing
            found[packing.digest] = packing
    return found


def weights_of(data: Path, packing: Packing) -> dict[str, NDArray[Any]]:
    """Weights packed so, mapped from their files."""
    return {name: job_data.saved(data / packing.digest, name) for name in packing.arrays}


def _program(job: Job, folder: Path, variant: str) -> ptx.Program:
    text = (folder / job.variant(variant).file).read_text()
    return layer_program(job.layer, text, variant)


def open_bench(folder: Path, data: Path) -> CudaBench:
    """A card with a job's weights in its memory. Raises KernelError where there is none, or no driver."""
    job = jobs.read(folder)
    answers = job_data.StoredAnswers(data)
    return CudaBench(card_of(job, folder, data), job.seed, answers, folder / job.dense)


def card_of(job: Job, folder: Path, data: Path) -> GpuBench:
    """The first card here; weights lie there in the forms that `write` wrote, as programs ask for them."""
    card = Device()
    probe = GpuProbe(card, ptx.parse((folder / job.probe).read_text()))
    weights = Uploads(card, lambda packing: weights_of(data, packing))
    return GpuBench(card, job.layer, weights.of, probe)


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
