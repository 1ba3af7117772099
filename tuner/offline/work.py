"""Operations and bytes of one call of a job's layer, as its trials route."""

from __future__ import annotations

import functools

from tuner.offline.job import Job
from tuner.problem import Problem
from tuner.problem.workload import (
    Workload,
    flops,
    pairs_per_expert,
    route_by_load,
    weight_bytes_read,
)


def of(job: Job, workload: Workload) -> tuple[int, int]:
    """Useful operations, and the bytes that must move at least."""
    return _of(job.layer, workload, job.seed)


@functools.lru_cache(maxsize=64)
def _of(problem: Problem, workload: Workload, seed: int) -> tuple[int, int]:
    """With the router's own choice of random tokens the counts are those of a uniform draw, closely."""
    counts = pairs_per_expert(problem, route_by_load(problem, workload, seed)[0])
    return flops(problem, counts, workload.tokens), weight_bytes_read(problem, counts)
