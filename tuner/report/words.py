"""Words: measured numbers as people read them: times, rates, shares, speed-ups."""

from __future__ import annotations

import math
from collections.abc import Mapping


def duration(ns: float) -> str:
    """A kernel's time."""
    for limit, unit in ((1e3, "ns"), (1e6, "us"), (1e9, "ms")):
        if ns < limit:
            return f"{ns / limit * 1e3:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def rate(ceiling: str, gflop_s: float | None, gb_s: float | None) -> str:
    """The rate that the binding ceiling limits: GB/s under ``read`` and ``copy``, else GFLOP/s."""
    memory = ceiling in ("read", "copy")
    value, unit = (gb_s, "GB/s") if memory else (gflop_s, "GFLOP/s")
    return "" if value is None else f"{value:.1f} {unit}"


def counted(count: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.0f}%"


def speed_up(ratio: float, low: float, high: float) -> tuple[float, float, float]:
    """A ratio of times, winner over default, turned into one of speeds, with its interval."""
    return inverse(ratio), inverse(high), inverse(low)


def inverse(ratio: float) -> float:
    return 1 / ratio if ratio else math.inf


def changed(changes: Mapping[str, tuple[int, int]]) -> str:
    """In what two configurations differ."""
    return ", ".join(f"{name} {before}->{after}" for name, (before, after) in changes.items())


def times(speed: float, low: float, high: float) -> str:
    """A speed-up with its interval."""
    return f"{speed:.2f}x [{low:.2f}, {high:.2f}]"


def clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def rough(seconds: float) -> str:
    """A time that nobody needs exactly: ``40 s``, ``3 minutes``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{math.ceil(seconds / 60)} minutes"


# What a kernel is held against -> how people call it.
_LIMITS = {
    "read": "memory bandwidth",
    "copy": "memory bandwidth",
    "fma": "peak FLOP/s",
    "dot": "peak FLOP/s",
    "dense": "peak FLOP/s",
}


def share_of(ceiling: str, fraction: float | None) -> str:
    """``93 % of memory bandwidth``; empty where it is not known."""
    if fraction is None:
        return ""
    return f"{100 * fraction:.0f} % of {_LIMITS.get(ceiling, ceiling)}"
