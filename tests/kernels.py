"""Small kernels for tests: problems that compile in seconds, and how to build and run them."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.cpu.kernel import Kernel
from tuner.problem import PRESETS, Problem
from tuner.space.variant import Variant, default_variant, make
from tuner.target import detect

TINY = Problem(hidden=48, expert_dim=40, num_experts=4, top_k=2, name="tiny")

# The seven configurations with their routing and expert form, at sizes that are no multiple of a vector.
REDUCED = {
    name: preset.replace(
        hidden=104,
        expert_dim=72,
        num_experts=min(preset.num_experts, 16),
        top_k=min(preset.top_k, 6),
        shared_dim=144 if preset.shared_dim else 0,
        num_groups=min(preset.num_groups, 4),
        top_groups=min(preset.top_groups, 2),
        name=f"{name}-reduced",
    )
    for name, preset in PRESETS.items()
}


def variant(problem: Problem, changes: Mapping[str, int] | None = None) -> Variant:
    """The default with some parameters changed."""
    default = default_variant(problem, detect())
    return make(default.template, {**default.config, **(changes or {})})


@functools.cache
def _kernel(problem: Problem, changes: tuple[tuple[str, int], ...]) -> Kernel:
    wanted = variant(problem, dict(changes))
    source = render(problem, wanted)
    return Kernel(compile_source(source.text, detect()).path, problem, wanted.config["workers"])


def kernel(problem: Problem, **changes: int) -> Kernel:
    """The compiled and loaded variant; compiled once for all tests."""
    return _kernel(problem, tuple(sorted(changes.items())))


def tokens(problem: Problem, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random tokens [count, D]."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, problem.hidden), dtype=np.float32)
