"""Ceilings: what this machine can do at most, and which of it binds a piece of work (roofline)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

from tuner.problem import Problem
from tuner.problem.dtypes import DTYPES
from tuner.target.target import Target, simd_bytes


class Limits(Protocol):
    """What a target can do at most: of cores ``Ceilings``, of a card ``GpuCeilings``."""

    def rows(self) -> tuple[tuple[str, float, str], ...]:
        """Name, value and unit of each."""

    def at_the_moment(self, read_gb_s: float, peak_gflop_s: float, pairs: bool) -> Limits:
        """These limits with what was probed beside a measurement; 0 was not probed."""

    def floor_ns(self, flops: int, read_bytes: int, pairs: bool = False) -> tuple[float, str]:
        """The least time for this work, and the name of the limit that binds it."""


@dataclass(frozen=True)
class GpuCeilings:
    """Rates of a card: its own copy, reads of the probe, and a dense product on its tensor cores."""

    copy_gb_s: float
    read_gb_s: float
    dense_gflop_s: float

    def rows(self) -> tuple[tuple[str, float, str], ...]:
        """Name, value and unit of each."""
        return (
            ("copy", self.copy_gb_s, "GB/s"),
            ("read", self.read_gb_s, "GB/s"),
            ("dense", self.dense_gflop_s, "GFLOP/s"),
        )

    def at_the_moment(self, read_gb_s: float, peak_gflop_s: float, pairs: bool) -> GpuCeilings:
        """The same: nothing is probed beside the measurements of a card."""
        return self

    def floor_ns(self, flops: int, read_bytes: int, pairs: bool = False) -> tuple[float, str]:
        """The least time in which the bytes move, and which bandwidth is the ceiling: the higher one."""
        ceiling = "read" if self.read_gb_s >= self.copy_gb_s else "copy"
        return read_bytes / max(self.read_gb_s, self.copy_gb_s), ceiling


@dataclass(frozen=True)
class Ceilings:
    """Rates that no kernel exceeds, of all cores: `fma_gflop_s` in float32, `read_gb_s` from DRAM, and
    `dot_gflop_s` of bfloat16 dot products, 0 where the processor has none."""

    fma_gflop_s: float
    read_gb_s: float
    dot_gflop_s: float = 0.0

    def rows(self) -> tuple[tuple[str, float, str], ...]:
        """Name, value and unit of those that there are."""
        limits = (
            ("fma", self.fma_gflop_s, "GFLOP/s"),
            ("dot", self.dot_gflop_s, "GFLOP/s"),
            ("read", self.read_gb_s, "GB/s"),
        )
        return tuple(limit for limit in limits if limit[1] > 0)

    def at_the_moment(self, read_gb_s: float, peak_gflop_s: float, pairs: bool) -> Ceilings:
        """These ceilings with what was probed beside a measurement; 0 was not probed.

        `pairs`: the peak is that of bfloat16 dot products.
        """
        probed = {"read_gb_s": read_gb_s, "dot_gflop_s" if pairs else "fma_gflop_s": peak_gflop_s}
        return dataclasses.replace(self, **{name: rate for name, rate in probed.items() if rate})

    def floor_ns(self, flops: int, read_bytes: int, pairs: bool = False) -> tuple[float, str]:
        """Roofline: the least time for this work, and which ceiling binds (`fma`, `dot` or `read`).

        `pairs`: the work may be done in bfloat16 dot products.

        Williams, Waterman and Patterson 2009, https://doi.org/10.1145/1498765.1498785.
        """
        pairs = pairs and self.dot_gflop_s > 0
        compute = flops / (self.dot_gflop_s if pairs else self.fma_gflop_s)
        memory = read_bytes / self.read_gb_s
        if memory > compute:
            return memory, "read"
        return compute, "dot" if pairs else "fma"


def has_dot(target: Target) -> bool:
    """Whether the probe of this target multiplies pairs of bfloat16."""
    return _multiplies_pairs(target, "bfloat16") and simd_bytes(target) == 64


def multiplies_pairs(problem: Problem, target: Target) -> bool:
    """Whether the target has dot products of the data type of the problem, activations and weights alike."""
    return problem.dtype == problem.weight_dtype and _multiplies_pairs(target, problem.dtype)


def _multiplies_pairs(target: Target, dtype: str) -> bool:
    feature = DTYPES[dtype].dot_feature
    return bool(feature) and feature in target.features
