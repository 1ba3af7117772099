"""Probe: measures the ceilings of this machine with the same worker pool as the kernels."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from tuner.cpu.buffers import allocate
from tuner.cpu.worker_pool import Pool, load_library, pool_signatures
from tuner.host.cores import pool_size
from tuner.host.interference import FOREIGN_LIMIT, ForeignMeter
from tuner.target import Target
from tuner.target.roofline import Ceilings, has_dot

FMA, READ, DOT, REREAD, MEET = range(5)
# Enough to evict any last cache we know of that a core can fill alone, and small enough to be quick.
LEAST_READ_BYTES = 64 << 20
BURST_PAUSE_S = 0.25
MOST_BURSTS = 20
FMA_UNITS = 256  # of one thread: about 7 ms at 16 lanes
BRIEF_UNITS = 48
SWEPT_BYTES = 256 << 20  # read by one thread in one sample of a cache level
SLEEP_S = 0.005  # worker threads sleep by then
SLICE_STEP_BYTES = 8 * 64  # vectors in flight of the template

Limit = tuple[str, float, str]


class Probe:
    """The compiled probe: multiplies registers, reads memory and caches, hands out nothing."""

    def __init__(self, target: Target, library: Path) -> None:
        """`library` is the probe as it was compiled for these features, see ``tuner.codegen.probes``."""
        self._target = target
        self._dot = has_dot(target)
        loaded = load_library(library, pool_signatures("probe"))
        info = np.zeros(5, np.int64)
        loaded.probe_info(ctypes.c_void_p(info.ctypes.data))
        sizes = (
            info[-4:] if info[-1] else info[:-1]
        )  # in bundles of before, after a number of threads
        control, self._unit_flops, self._unit_bytes, self._phases = (int(size) for size in sizes)
        self._threads = pool_size(tuned=target.cores)
        self._pool = Pool(loaded, "probe", self._threads, control)
        size = max(LEAST_READ_BYTES, 2 * target.l3_bytes)
        self._buffer = allocate(size // 4)
        self._buffer[:] = 1e-3
        self._sink = allocate(self._threads * 16)

    def _run(self, operation: int, units: int, slice_bytes: int = 0) -> float:
        """Seconds of one operation, with all threads awake: a ceiling is no matter of sleep."""
        if operation != MEET:
            self._call(MEET, self._threads, 0)
        return self._call(operation, units, slice_bytes)

    def _call(self, operation: int, units: int, slice_bytes: int) -> float:
        addresses = (self._buffer.ctypes.data, self._sink.ctypes.data)
        arguments = (operation, units, *addresses, slice_bytes // 4, self._threads)
        start = time.perf_counter()
        self._pool.run(arguments)
        return time.perf_counter() - start

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside, the calling thread works alone."""
        self._threads, before = 1, self._threads
        yield
        self._threads = before

    def read_gb_s(self) -> float:
        """Reads the whole buffer once, which leaves nothing else in the caches; GB/s."""
        units = self._buffer.nbytes // self._unit_bytes
        return units * self._unit_bytes / self._run(READ, units) / 1e9

    def fma_gflop_s(self, brief: bool = False) -> float:
        """All cores for some milliseconds (`brief`: one or two); GFLOP/s."""
        units = (BRIEF_UNITS if brief else FMA_UNITS) * self._threads
        return units * self._unit_flops / self._run(FMA, units) / 1e9

    def dot_gflop_s(self, brief: bool = False) -> float:
        """The same in bfloat16 dot products; 0 where there are none."""
        units = (BRIEF_UNITS if brief else FMA_UNITS) * self._threads
        return 2 * units * self._unit_flops / self._run(DOT, units) / 1e9 if self._dot else 0.0

    def reread_gb_s(self, slice_bytes: int) -> float:
        """Each thread reads a slice of its own again and again: the cache level that holds it; GB/s."""
        slice_bytes = slice_bytes // SLICE_STEP_BYTES * SLICE_STEP_BYTES
        slice_bytes = min(slice_bytes, self._buffer.nbytes // self._threads)
        sweeps = max(8, SWEPT_BYTES // slice_bytes) * self._threads
        return sweeps * slice_bytes / self._run(REREAD, sweeps, slice_bytes) / 1e9

    def phase_us(self) -> float:
        """All threads wait for each other, once; microseconds."""
        return 1e6 * self._run(MEET, self._threads) / self._phases

    def wake_us(self) -> float:
        """From a call, with all other threads asleep, until all have met in it; microseconds."""
        time.sleep(SLEEP_S)
        return 1e6 * self._run(MEET, self._threads)

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

    def details(self, repeats: int = 25) -> tuple[Limit, ...]:
        """Name, value and unit of what lies behind the ceilings: the peaks of one core, reads from each
        cache level and from DRAM by one core and by all, and what a hand-off costs."""
        rows = [("handoff phase", _least(self.phase_us, 40 * repeats), "us")]
        rows.append(("handoff wake", float(np.median(_repeat(self.wake_us, repeats))), "us"))
        rows += self._reads("", repeats)
        with self._alone():
            rows.append(("fma 1 core", max(_repeat(self.fma_gflop_s, repeats)), "GFLOP/s"))
            rows.append(("dot 1 core", max(_repeat(self.dot_gflop_s, repeats)), "GFLOP/s"))
            rows.append(("read 1 core", max(_repeat(self.read_gb_s, repeats // 3)), "GB/s"))
            rows += self._reads(" 1 core", repeats)
        return tuple(row for row in rows if row[1] > 0)

    def _reads(self, suffix: str, repeats: int) -> list[Limit]:
        """From half of each cache level (of L3 each thread's part), unless the level above holds that."""
        target = self._target
        slices = (
            ("read L1d", target.l1d_bytes // 2, 0),
            ("read L2", target.l2_bytes // 2, target.l1d_bytes),
            ("read L3", target.l3_bytes // 2 // self._threads, target.l2_bytes),
        )
        return [
            (name + suffix, max(_repeat(partial(self.reread_gb_s, size), repeats)), "GB/s")
            for name, size, above in slices
            if size > above
        ]


def _repeat(measure: Callable[[], float], times: int) -> list[float]:
    return [measure() for _ in range(times)]


def _least(measure: Callable[[], float], times: int) -> float:
    """The first decile: what it costs when nothing else gets in the way."""
    return float(np.percentile(_repeat(measure, times), 10))
