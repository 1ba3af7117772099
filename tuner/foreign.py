"""How much of the machine other processes took while something was measured."""

from __future__ import annotations

import os
import time

# A measurement during which others took more than this share of the machine is taken again.
FOREIGN_LIMIT = 0.05
# The system counts in hundredths of a second, on each side of a measurement.
_ROUNDING_S = 0.04


class ForeignMeter:
    """Counts from its making: `share()` is the part of all cores' time that others took."""

    def __init__(self) -> None:
        self._start = _seconds()

    def share(self) -> float:
        """Between 0 and 1; 0 over times too short for the system's clock to tell."""
        wall, busy, own = (now - then for now, then in zip(_seconds(), self._start, strict=True))
        available = wall * (os.cpu_count() or 1)
        return max(0.0, busy - own - _ROUNDING_S) / available if available > 0 else 0.0


def _seconds() -> tuple[float, float, float]:
    """Wall time, busy processor time of the whole machine, and of this process."""
    with open("/proc/stat") as file:
        fields = [float(v) for v in file.readline().split()[1:]]
    idle = fields[3] + fields[4]
    busy = (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")
    own = os.times()
    return time.perf_counter(), busy, own.user + own.system
