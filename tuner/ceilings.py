"""Ceilings: what this machine can do at most, measured with the same worker pool as the kernels."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass

import numpy as np

from tuner import template
from tuner.compile import compile_source
from tuner.foreign import FOREIGN_LIMIT, ForeignMeter
from tuner.memory import allocate
from tuner.pool import Pool, load_library, pool_signatures
from tuner.target import Target, simd_bytes

FMA, READ, DOT = 0, 1, 2
# Enough to evict any last cache we know of that a core can fill alone, and small enough to be quick.
LEAST_READ_BYTES = 64 << 20
BURST_PAUSE_S = 0.25
MOST_BURSTS = 20


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


class Probe:
    """The compiled probe: reads a buffer larger than the last cache, multiplies registers."""

    def __init__(self, target: Target) -> None:
        lanes = simd_bytes(target) // 4
        values = {
            "simd_width": lanes,
            "workers": target.cores,
            "accumulators": 24 if lanes == 16 else 12,
            "dot": int("avx512bf16" in target.features and lanes == 16),
        }
        self._dot = bool(values["dot"])
        binary = compile_source(template.fill("probe_cpu", values), target)
        library = load_library(binary.path, pool_signatures("probe"))
        info = np.zeros(4, np.int64)
        library.probe_info(ctypes.c_void_p(info.ctypes.data))
        workers, control, self._unit_flops, self._unit_bytes = (int(v) for v in info)
        self._pool = Pool(library, "probe", workers, control)
        size = max(LEAST_READ_BYTES, 2 * target.l3_bytes)
        self._buffer = allocate(size // 4)
        self._buffer[:] = 1e-3
        self._sink = allocate(workers * 16)

    def _run(self, operation: int, units: int) -> float:
        """Seconds of one operation."""
        arguments = (operation, units, self._buffer.ctypes.data, self._sink.ctypes.data)
        start = time.perf_counter()
        self._pool.run(arguments)
        return time.perf_counter() - start

    def read_gb_s(self) -> float:
        """Reads the whole buffer once, which leaves nothing else in the caches; GB/s."""
        units = self._buffer.nbytes // self._unit_bytes
        return units * self._unit_bytes / self._run(READ, units) / 1e9

    def fma_gflop_s(self) -> float:
        """All cores for some milliseconds; GFLOP/s."""
        units = 256 * self._pool.workers
        return units * self._unit_flops / self._run(FMA, units) / 1e9

    def dot_gflop_s(self) -> float:
        """The same in bfloat16 dot products; 0 where there are none."""
        units = 256 * self._pool.workers
        return 2 * units * self._unit_flops / self._run(DOT, units) / 1e9 if self._dot else 0.0

    def ceilings(self, bursts: int = 4, repeats: int = 8) -> Ceilings:
        """The best of several bursts: others on the machine only ever take away from a ceiling.

        They are BURST_PAUSE_S apart, because a virtual machine may lose a core for a tenth of a second,
        and those during which other processes ran don't count among the `bursts`.
        """
        self.read_gb_s()
        found: list[Ceilings] = []
        clean = 0
        while clean < bursts and len(found) < MOST_BURSTS:
            meter = ForeignMeter()
            reads = [self.read_gb_s() for _ in range(repeats)]
            multiplies = [self.fma_gflop_s() for _ in range(repeats)]
            dots = [self.dot_gflop_s() for _ in range(repeats)]
            clean += meter.share() <= FOREIGN_LIMIT
            # Reads are quoted as sustained: the best burst's median, not the luckiest moment.
            found.append(Ceilings(max(multiplies), float(np.median(reads)), max(dots)))
            time.sleep(BURST_PAUSE_S)
        return Ceilings(
            max(c.fma_gflop_s for c in found),
            max(c.read_gb_s for c in found),
            max(c.dot_gflop_s for c in found),
        )
