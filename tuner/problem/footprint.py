"""Footprint: how much memory a layer's weights take, and how much this machine has for them."""

from __future__ import annotations

import os
from pathlib import Path

from tuner.host.quota import bytes_within
from tuner.problem.problem import Problem


def available_bytes() -> int:
    """What this machine, and a container's limit, can still give out without taking it from a program."""
    return bytes_within(_of_machine())


def _of_machine() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def weights_bytes(problem: Problem) -> int:
    """One copy of a layer's weights."""
    fixed = problem.shared_weight_bytes + problem.router_weight_bytes
    return problem.num_experts * problem.expert_weight_bytes + fixed


def experts_that_fit(problem: Problem, copies: float, have_bytes: int) -> int:
    """The most experts, in whole groups, of which so many copies fit; 0 where a token could not
    choose its k of them."""
    fixed = problem.shared_weight_bytes + problem.router_weight_bytes
    each = problem.num_groups * problem.expert_weight_bytes
    in_group = int(max(0, have_bytes / copies - fixed) // each)
    enough = in_group * problem.top_groups >= problem.top_k
    return in_group * problem.num_groups if enough else 0
