"""The bench of a measuring process of this machine's own sessions: cores, or a card that is here.

It compiles what measures the ceilings when it first times something.
"""

from __future__ import annotations

from pathlib import Path

from tuner.codegen import probes
from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.measure import gpu_peak
from tuner.measure.bench import Bench
from tuner.measure.cpu_bench import CpuBench
from tuner.problem import Problem
from tuner.space.variant import default_variant
from tuner.target import Target


def open_bench(problem: Problem, target: Target, seed: int) -> Bench:
    """The state of a new measuring process. Raises DeviceError where the target is a GPU that is not here."""
    if target.kind == "cpu":
        return CpuBench(problem, target, seed, probes.of_cpu)
    from tuner.measure.cuda_bench import open_here  # the driver is looked for where a GPU is meant

    dense = dense_program(target, problem.dtype)
    return open_here(problem, target, seed, probes.of_gpu(target), dense)


def dense_program(target: Target, dtype: str) -> Path:
    """The program of one large dense product, a GPU's arithmetic ceiling. Raises CompileError."""
    problem = gpu_peak.layer(dtype)
    variant = default_variant(problem, target, tokens=gpu_peak.TOKENS)
    return compile_source(render(problem, variant).text, target).path
