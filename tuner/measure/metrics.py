"""Measurement: what follows from the raw samples of a race."""

from __future__ import annotations

import functools
from typing import cast

from tuner.measure.bench import Timing
from tuner.measure.race import Race
from tuner.problem import Problem
from tuner.problem.workload import (
    Workload,
    flops,
    pairs_per_expert,
    route_by_load,
    weight_bytes_read,
)
from tuner.store.records import Environment, MeasurementRow
from tuner.target import Target
from tuner.target.roofline import Limits, multiplies_pairs


def measurement(
    timing: Timing,
    kernel: int,
    ceilings: Limits,
    target: Target,
    problem: Problem,
    kind: str = "trial",
) -> MeasurementRow:
    """The row of one kernel of a race: median, percentiles, rates, fraction of the ceiling.

    Weights count as read from memory when they were made cold, or are larger than the last cache.
    """
    race = timing.race
    pairs = multiplies_pairs(problem, target)
    limits = ceilings.at_the_moment(race.read_gb_s, race.peak_gflop_s, pairs)
    weights = problem.num_experts * problem.expert_weight_bytes + problem.shared_weight_bytes
    from_memory = timing.temperature == "cold" or weights > target.l3_bytes
    floor_ns, ceiling = limits.floor_ns(
        int(timing.flops),
        int(timing.read_bytes) if from_memory else 0,
        pairs,
    )
    time_ns = race.time(kernel).value
    work = timing.flops, timing.read_bytes
    limit = ceiling, floor_ns / time_ns
    return row_of(race, kernel, kind, timing.temperature, work, limit)


def row_of(
    race: Race,
    kernel: int,
    kind: str,
    temperature: str,
    work: tuple[float, float],
    limit: tuple[str, float],
) -> MeasurementRow:
    """The row of one kernel of a race. `work` is a call's operations and the bytes it reads at least;
    `limit` the ceiling that binds it and the fraction that it reaches."""
    time_ns, ratio = race.time(kernel), race.ratio(kernel)
    return MeasurementRow(
        kind=kind,
        temperature=temperature,
        samples=tuple(float(t) for t in race.times_ns[kernel]),
        median_ns=time_ns.value,
        low_ns=time_ns.low,
        high_ns=time_ns.high,
        p95_ns=race.percentile(kernel, 95),
        p99_ns=race.percentile(kernel, 99),
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        gflop_s=work[0] / time_ns.value,
        gb_s=work[1] / time_ns.value,
        ceiling=limit[0],
        ceiling_fraction=limit[1],
    )


def noise(race: Race) -> Environment:
    """What was probed of the machine beside a race, as a trial's row says it."""
    return Environment(
        foreign=round(race.foreign, 3),
        probe_gb_s=round(race.read_gb_s, 1),
        probe_gflop_s=round(race.peak_gflop_s, 1),
    )


def limits_of(ceilings: Limits) -> Environment:
    """The ceilings, as a trial's row says them."""
    rows = {f"{name}_limit": round(value, 1) for name, value, _ in ceilings.rows()}
    return cast(Environment, rows)


@functools.lru_cache(maxsize=64)
def drawn_work(problem: Problem, workload: Workload, seed: int) -> tuple[int, int]:
    """Operations of one call, and the bytes that it reads at least, as the load is drawn.

    With the router's own choice of random tokens the counts are those of a uniform draw, closely.
    """
    counts = pairs_per_expert(problem, route_by_load(problem, workload, seed)[0])
    return flops(problem, counts, workload.tokens), weight_bytes_read(problem, counts)
