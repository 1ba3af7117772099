"""What a line of winners must say beyond its types, so that what is taken can be shown and merged elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

from tuner.errors import DatabaseError
from tuner.problem.workload import Workload
from tuner.store.records import STATUSES, Environment

# Clocks of other machines may be ahead of this one by so much.
CLOCKS_APART = timedelta(days=1)
MOST_TEXT = 2000
# No time, rate or ratio lies beyond; sums and quotients of such numbers are numbers.
_LEAST, _MOST = 1e-30, 1e30
# Of a problem or a target: larger than any, and its products by sizes of data types are of 64 bits.
_MOST_SIZE = 1 << 50
_MOST_SHOWN = 40


def check_sizes(key: Mapping[str, Any], where: str) -> None:
    """Refuse sizes that no layer and no machine has."""
    for name, value in key.items():
        if type(value) in (int, float) and not abs(value) <= _MOST_SIZE:
            raise DatabaseError(f"{where}.{name}: is {value}, must be at most {_MOST_SIZE}")


def check_winner(winner: Mapping[str, Any]) -> None:
    """Refuse a winner whose workload, time or ratios cannot be. Raises DatabaseError, ProblemError."""
    if Workload(winner["tokens"], winner["load"]).load != winner["load"]:
        raise DatabaseError(f"load: is {winner['load']!r}; give its shortest spelling")
    check_time("winner.created", winner["created"])
    if not _rise(winner, "ratio_low", "ratio", "ratio_high"):
        raise DatabaseError("winner: ratio_low, ratio and ratio_high must rise from above 0")
    if not _LEAST <= winner["median_ns"] <= _MOST:
        raise DatabaseError("winner.median_ns: must be above 0")
    _check_rates("winner", winner, "gflop_s", "gb_s", "ceiling_fraction")


def check_trial(trial: Mapping[str, Any], where: str) -> None:
    """Refuse a trial that no tuner records."""
    if trial["status"] not in STATUSES:
        raise DatabaseError(f"{where}.status: is none of {', '.join(STATUSES)}")
    check_time(f"{where}.created", trial["created"])
    if max(len(trial["message"]), len(trial["session"])) > MOST_TEXT:
        raise DatabaseError(f"message or session: longer than {MOST_TEXT} characters")
    _check_rates(where, trial, "render_ms", "compile_ms", "verify_ms", "benchmark_ms")
    environment = trial["environment"]
    for name, kind in get_type_hints(Environment).items():
        kinds = (int, float) if kind is float else (kind,)
        if name in environment and type(environment[name]) not in kinds:
            raise DatabaseError(f"{where}.environment.{name}: must be {kind.__name__}")
        if kind is not str and not 0 <= environment.get(name, 0) <= _MOST:
            raise DatabaseError(f"{where}.environment.{name}: is beyond what can be")


def check_measurement(row: Mapping[str, Any]) -> None:
    """Refuse times and rates that cannot be."""
    if not _rise(row, "low_ns", "median_ns", "high_ns"):
        raise DatabaseError("measurement: low_ns, median_ns and high_ns must rise from above 0")
    if row["sample_count"] < 0:
        raise DatabaseError("measurement.sample_count: is below 0")
    _check_rates("measurement", row, "p95_ns", "p99_ns", "gflop_s", "gb_s", "ceiling_fraction")


def check_config(config: Mapping[str, Any]) -> None:
    """Refuse a configuration that no space has."""
    if any(type(value) is not int for value in config.values()):
        raise DatabaseError("variant.config: values must be whole numbers")


def check_time(field: str, text: str) -> None:
    """Refuse what is no time in UTC that has been."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DatabaseError(
            f"{field}: is {text[:_MOST_SHOWN]!r}, must be a time in ISO 8601"
        ) from error
    if time.utcoffset() != timedelta(0):
        raise DatabaseError(f"{field}: is {text}, must be in UTC, with +00:00")
    if time > datetime.now(UTC) + CLOCKS_APART:
        raise DatabaseError(f"{field}: is {text}, which is in the future")


def _rise(row: Mapping[str, Any], low: str, middle: str, high: str) -> bool:
    return bool(_LEAST <= row[low] <= row[middle] <= row[high] <= _MOST)


def _check_rates(where: str, row: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if row[name] is not None and not 0 <= row[name] <= _MOST:
            raise DatabaseError(f"{where}.{name}: is {row[name]}, which cannot be")
