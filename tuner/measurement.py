"""Measurement: what follows from the raw samples of a race."""

from __future__ import annotations

from tuner.bench_state import Timing
from tuner.ceilings import Ceilings, multiplies_pairs
from tuner.problem import Problem
from tuner.records import MeasurementRow
from tuner.target import Target


def measurement(
    timing: Timing,
    kernel: int,
    ceilings: Ceilings,
    target: Target,
    problem: Problem,
    kind: str = "trial",
) -> MeasurementRow:
    """The row of one kernel of a race: median, percentiles, rates, fraction of the ceiling.

    Weights count as read from memory when they were made cold, or are larger than the last cache.
    """
    race = timing.race
    time_ns, ratio = race.time(kernel), race.ratio(kernel)
    pairs = multiplies_pairs(problem, target)
    limits = ceilings.at_the_moment(race.read_gb_s, race.peak_gflop_s, pairs)
    weights = problem.num_experts * problem.expert_weight_bytes + problem.shared_weight_bytes
    from_memory = timing.temperature == "cold" or weights > target.l3_bytes
    floor_ns, ceiling = limits.floor_ns(
        int(timing.flops),
        int(timing.read_bytes) if from_memory else 0,
        pairs,
    )
    return MeasurementRow(
        kind=kind,
        temperature=timing.temperature,
        samples=tuple(float(t) for t in race.times_ns[kernel]),
        median_ns=time_ns.value,
        low_ns=time_ns.low,
        high_ns=time_ns.high,
        p95_ns=race.percentile(kernel, 95),
        p99_ns=race.percentile(kernel, 99),
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        gflop_s=timing.flops / time_ns.value,
        gb_s=timing.read_bytes / time_ns.value,
        ceiling=ceiling,
        ceiling_fraction=floor_ns / time_ns.value,
    )
