"""Traces on the command line: ``trace:FILE`` becomes ``trace:DIGEST``, ``from-trace`` its token counts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tuner.errors import UsageError
from tuner.problem import Problem, trace_file, trace_load
from tuner.problem.workload import parse_load

PREFIX = "trace:"


def is_file(load: str) -> bool:
    """Whether a load names a trace by its file."""
    name = load.removeprefix(PREFIX)
    return load != name and re.fullmatch("[0-9a-f]{8}", name) is None


def spelled(load: str) -> str:
    """A load in its shortest spelling; one that names a file stays as it is."""
    return load if is_file(load) else str(parse_load(load))


def named(problem: Problem, load: str) -> str:
    """A load by its key; the counts in a file are kept, so that they can be drawn from now on."""
    if not is_file(load):
        return str(parse_load(load))
    found = trace_load.recorded(trace_file.read(load.removeprefix(PREFIX)), problem)
    trace_load.keep(found)
    return found.load


def resolve(
    problem: Problem, loads: Mapping[str, float], tokens: Mapping[int, float]
) -> tuple[dict[str, float], dict[int, float], str]:
    """The loads by their keys, and the token counts (none: the heaviest of the trace) with their weights.

    The third value tells which counts those are. Raises UsageError when there is not just one trace file.
    """
    keys = {named(problem, load): weight for load, weight in loads.items()}
    if tokens:
        return keys, dict(tokens), ""
    files = [load for load in loads if is_file(load)]
    if len(files) != 1:
        raise UsageError("--tokens from-trace needs one --load trace:FILE; name the token counts")
    rows = trace_load.rows(trace_file.read(files[0].removeprefix(PREFIX)), problem)
    heaviest, share = trace_load.heaviest(rows)
    told = ",".join(f"{count}={weight:g}" for count, weight in heaviest.items())
    return keys, heaviest, f"tokens from the trace: {told}, {100 * share:.0f} % of its time"
