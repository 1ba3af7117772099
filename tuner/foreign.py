"""How much of this process's cores other processes took while something was measured."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_STAT = Path("/proc/stat")
# A measurement during which others took more than this share of the machine is taken again.
FOREIGN_LIMIT = 0.05
# The system counts in hundredths of a second, on each side of a measurement.
_ROUNDING_S = 0.04
# What is shorter than this is too short for these counts: a load of one core would not show.
_LEAST_S = 0.2


class ForeignMeter:
    """Counts from its making: `share()` is the part of the time of this process's cores that others took.

    Cores that this process may not run on don't count: builds may run there.
    """

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0)
        self._start = self._seconds()

    def share(self) -> float:
        """Between 0 and 1. Waits where the time so far is too short for the system's counts to tell."""
        time.sleep(max(0.0, self._start[0] + _LEAST_S - time.perf_counter()))
        wall, busy, own = (
            now - then for now, then in zip(self._seconds(), self._start, strict=True)
        )
        available = wall * len(self._cores)
        return max(0.0, busy - own - _ROUNDING_S) / available if available > 0 else 0.0

    def _seconds(self) -> tuple[float, float, float]:
        """Wall time, busy processor time of the cores, and processor time of this process."""
        busy = sum(busy_ticks(self._cores)) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.perf_counter(), busy, own.user + own.system


def busy_ticks(cores: Collection[int]) -> Iterator[float]:
    """What each of these cores was busy for, in ticks (proc(5), /proc/stat)."""
    with _STAT.open() as file:
        for line in file:
            name, *fields = line.split()
            if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
                ticks = [float(v) for v in fields[:8]]
                yield sum(ticks) - ticks[3] - ticks[4]
