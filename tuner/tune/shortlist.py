"""Shortlist: which packed form of the weights a layer is to have, and which variants race in the finals.

Pure functions of ratios to the default, for sessions here and for job folders elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tuner.tune.verdicts import LEAST_FLOOR

# How many variants race in the finals of one workload beside the default.
FINALISTS = 4


def settled_pack(
    best: Sequence[Mapping[str, float]],
    weights: Sequence[float],
    usual: str,
    untried: float,
) -> str:
    """The packed form of the least weighted mean ratio over all workloads; of those within noise, the usual.

    `best` has for each workload the least ratio of each form that was tried there; `untried` is what a form
    counts for where it wasn't: 1 where it may be as fast as the default, infinite where it failed.
    """
    total = sum(weights)

    def rating(pack: str) -> tuple[float, bool]:
        logs = (
            weight * math.log(ratios.get(pack, untried))
            for weight, ratios in zip(weights, best, strict=True)
        )
        mean = sum(logs) / total
        return (round(mean / LEAST_FLOOR) if math.isfinite(mean) else mean), pack != usual

    return min(sorted({usual, *(pack for ratios in best for pack in ratios)}), key=rating)


def fastest(ratios: Mapping[str, float], packs: Mapping[str, str], pack: str) -> list[str]:
    """The names of the variants that read a packed form, the fastest first."""
    fit = (name for name in ratios if packs[name] == pack)
    return sorted(fit, key=ratios.__getitem__)


def best_by_pack(ratios: Mapping[str, float], packs: Mapping[str, str]) -> dict[str, float]:
    """The least ratio of each packed form."""
    found: dict[str, float] = {}
    for name, ratio in ratios.items():
        found[packs[name]] = min(ratio, found.get(packs[name], math.inf))
    return found
