"""Measuring on the cores of another machine's CPU, as a session measures on its own."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.errors import KernelError
from tuner.host.cores import spread
from tuner.measure import verify
from tuner.measure.bench import MOST_PACKED, BenchState, Entrant
from tuner.measure.race import FINAL_EFFORT, SLOW, TRIAL_EFFORT, Effort
from tuner.offline import data as job_data
from tuner.offline import job as jobs
from tuner.offline.job import Job, JobError
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights, array_shapes
from tuner.problem.workload import Workload
from tuner.target import Target, can_run, detect
from tuner.target.features import UNUSED_BY_CODE

TILE = "tile_rows"
COPIES = 1 + MOST_PACKED
TRIAL_S = 240.0
# Of the probe, at each end of a run: the best of all counts.
_BURSTS = 2
WHERE = "run this where the job's processor is, or make a job for this one"


def cores(job: Job) -> frozenset[int]:
    """As many as the job was made for. Raises JobError where this process may use fewer."""
    allowed, wanted = os.sched_getaffinity(0), int(job.target["cores"])
    if len(allowed) < wanted:
        raise JobError(
            f"the job is for {wanted} cores, this process may use {len(allowed)}; "
            f"make it with --cores {len(allowed)}"
        )
    return spread(wanted, allowed)


def write(problem: Problem, weights: Weights, data: Path) -> None:
    """Writes the weights as they are: every variant packs them."""
    for name in array_shapes(problem):
        job_data.save(data, name, getattr(weights, name))


def weights_of(data: Path, problem: Problem) -> Weights:
    """The weights, mapped from their files."""
    dtype = NUMPY_DTYPES[problem.weight_dtype]
    return Weights(**{n: job_data.saved(data, n).view(dtype) for n in array_shapes(problem)})


def open_bench(folder: Path, data: Path) -> CpuBench:
    """Raises KernelError where this processor lacks what the job's code needs."""
    return CpuBench(folder, data)


class CpuBench:
    """The cores of this process with a job's weights."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.job = folder, data, jobs.read(folder)
        asked = Target.from_key(self.job.target)
        self.host = detect()
        if not can_run(self.host, asked.features):
            lacks = sorted({*asked.features} - UNUSED_BY_CODE - {*self.host.features})
            raise KernelError(f"code for {asked.arch} needs {', '.join(lacks)}, which is not here")
        # Caches and cores are this machine's; what may be computed in which way is the code's.
        target = dataclasses.replace(self.host, features=asked.features)
        problem = self.job.layer
        self._state = BenchState(
            problem,
            target,
            self.job.seed,
            lambda _: folder / self.job.probe,
            _weights=weights_of(data, problem),
        )
        self._answers: dict[verify.Case, verify.Expected] | None = None

    def device(self) -> dict[str, Any]:
        """What the processor is, and its ceilings now."""
        ceilings = self._state.probe.ceilings(_BURSTS)
        return {
            "name": self.host.name,
            "target": {**self.host.key, "name": self.host.name},
            "python": platform.python_version(),
            "kernel": platform.release(),
            "load_1m": round(os.getloadavg()[0], 2),
            **dataclasses.asdict(ceilings),
        }

    def check(self, name: str, tokens: int) -> str:
        """Runs all cases of a token count; what was wrong, or nothing."""
        if self._answers is None:
            self._answers = job_data.answers_of(self.data)
        variant, problem = self.job.variant(name), self.job.layer
        entrant = self._entrant(name)
        kernel = self._state.kernel(entrant)
        packed = self._state.packed(kernel, entrant.pack)
        cases = verify.cases(problem, tokens, variant.config[TILE], self.job.seed)
        verdict = verify.verify(kernel, packed, tuple(self._answers[case] for case in cases))
        return verdict.message

    def race(self, names: Sequence[str], tokens: int, final: bool) -> dict[str, Any]:
        """Variants in turn; in a final also a copy of the default, which tells the noise."""
        entrants = [self._entrant(name) for name in names]
        if final:
            entrants.append(self._twin(entrants[0]))
        timing = self._state.race(
            entrants,
            Workload(tokens, self.job.load),
            self._effort(final),
            self.job.temperature,
        )
        race = timing.race
        raced: dict[str, Any] = {"samples": race.times_ns[: len(names)]}
        if final:
            raced["twin"] = race.times_ns[-1]
        raced["timing"] = {
            "flops": timing.flops,
            "read_bytes": timing.read_bytes,
            "temperature": timing.temperature,
            "probe_gb_s": race.probe_gb_s,
            "probe_gflop_s": race.probe_gflop_s,
            "foreign": race.foreign,
            "redone": race.redone,
        }
        return raced

    def _effort(self, final: bool) -> Effort:
        if final:
            return dataclasses.replace(FINAL_EFFORT, budget_s=self.job.final_race_s)
        return dataclasses.replace(TRIAL_EFFORT, budget_s=self.job.trial_race_s, reach=SLOW)

    def _entrant(self, name: str) -> Entrant:
        variant = self.job.variant(name)
        return Entrant.of(self.folder / variant.file, variant)

    def _twin(self, of: Entrant) -> Entrant:
        """A copy of a variant's library, which loads as one of its own."""
        path = self.data / f"twin-{of.path.name}"
        shutil.copyfile(of.path, path)
        return dataclasses.replace(of, path=path)
