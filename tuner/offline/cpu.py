"""Measuring on the cores of another machine's CPU, as a session measures on its own."""

from __future__ import annotations

import dataclasses
import os
import platform
from pathlib import Path
from typing import Any

from tuner.errors import KernelError
from tuner.host.cores import spread
from tuner.host.quota import cores_within
from tuner.measure.cpu_bench import MOST_PACKED, CpuBench
from tuner.offline import data as job_data
from tuner.offline import job as jobs
from tuner.offline.job import Job, JobError
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights, array_shapes
from tuner.target import Target, can_run, detect
from tuner.target.features import UNUSED_BY_CODE

COPIES = 1 + MOST_PACKED
TRIAL_S = 240.0
# Of the probe, at each end of a run: the best of all counts.
_BURSTS = 2
WHERE = "run this where the job's processor is, or make a job for this one"


def cores(job: Job) -> frozenset[int]:
    """As many as the job was made for. Raises JobError where this process may use fewer."""
    allowed, wanted = os.sched_getaffinity(0), int(job.target["cores"])
    usable = cores_within(len(allowed))
    if usable < wanted:
        raise JobError(
            f"the job is for {wanted} cores, this process may use {usable}; "
            f"make it with --cores {usable}"
        )
    return spread(wanted, allowed)


def write(job: Job, folder: Path, weights: Weights, data: Path) -> None:
    """Writes the weights as they are: every variant packs them."""
    for name in array_shapes(job.layer):
        job_data.save(data, name, getattr(weights, name))


def weights_of(data: Path, problem: Problem) -> Weights:
    """The weights, mapped from their files."""
    dtype = NUMPY_DTYPES[problem.weight_dtype]
    return Weights(**{n: job_data.saved(data, n).view(dtype) for n in array_shapes(problem)})


def open_bench(folder: Path, data: Path) -> CpuBench:
    """The cores of this process with a job's weights. Raises KernelError where this processor lacks what the
    job's code needs."""
    job = jobs.read(folder)
    asked, host = Target.from_key(job.target), detect()
    if not can_run(host, asked.features):
        lacks = sorted({*asked.features} - UNUSED_BY_CODE - {*host.features})
        raise KernelError(f"code for {asked.arch} needs {', '.join(lacks)}, which is not here")
    # Caches and cores are this machine's; what may be computed in which way is the code's.
    target = dataclasses.replace(host, features=asked.features)
    return CpuBench(
        job.layer,
        target,
        job.seed,
        lambda _: folder / job.probe,
        _weights=weights_of(data, job.layer),
        _answers=job_data.StoredAnswers(data),
    )


def device(bench: CpuBench) -> dict[str, Any]:
    """What the processor is, and its ceilings now."""
    host = detect()
    return {
        "name": host.name,
        "target": {**host.key, "name": host.name},
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load_1m": round(os.getloadavg()[0], 2),
        **dataclasses.asdict(bench.probe.ceilings(_BURSTS)),
    }
