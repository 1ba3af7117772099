"""A measuring process of this machine's own sessions: it compiles its probe when it first times something."""

from __future__ import annotations

from tuner.codegen import probes
from tuner.measure.bench import BenchState
from tuner.problem import Problem
from tuner.target import Target


def open_bench(problem: Problem, target: Target, seed: int) -> BenchState:
    """The state of a new measuring process."""
    return BenchState(problem, target, seed, probes.of_cpu)
