"""Trace file: the calls that were recorded from a running model, read from JSON lines.

The first line is {"moetune_trace": 1, "problems": {DIGEST: KEY, ...}}; each other one stands for the
calls of one layer form with one token count:

    {"problem": DIGEST, "tokens": 16, "calls": 120, "ms": 61.5, "counts": [[5, 0, 11, ...], ...]}

`ms` is the time of all these calls, and `counts` are pairs by expert [E] of some of them, drawn evenly.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.host import json_text
from tuner.problem.problem import Problem

VERSION = 1
MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class TraceRow:
    """Calls of one problem (its digest) with one token count; `counts` are pairs by expert of some."""

    problem: str
    tokens: int
    calls: int
    ms: float
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Traffic:
    """A trace that was read: its problems by digest, and its rows."""

    problems: dict[str, Problem]
    rows: tuple[TraceRow, ...]


def read(path: str | os.PathLike[str]) -> Traffic:
    """Reads a trace. Raises UsageError, with the line, when it is none or damaged."""
    place = Path(path)
    try:
        with place.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{place}: cannot be read ({error}); give a file of tuner.trace"
        ) from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{place}: has more than {MOST_BYTES >> 20} MiB, which no trace has")
    if not data:
        raise UsageError(f"{place}: is empty, so it is no trace; record one with tuner.trace")
    lines = data.removesuffix(b"\n").split(b"\n")
    found: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json_text.parse(line)
            found.append(_problems(value) if number == 1 else _row(value))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{place}: line {number} is none of a trace ({error!r}); record it again"
            ) from error
    problems, *rows = found
    for row in rows:
        _check(place, problems, row)
    return Traffic(problems, tuple(rows))


def _problems(line: dict[str, Any]) -> dict[str, Problem]:
    if line["moetune_trace"] != VERSION:
        raise ValueError(f"version {line['moetune_trace']}, this moetune reads {VERSION}")
    return {digest: Problem.from_key(key) for digest, key in line["problems"].items()}


def _row(line: dict[str, Any]) -> TraceRow:
    counts = tuple(tuple(int(count) for count in counts) for counts in line["counts"])
    numbers = int(line["tokens"]), int(line["calls"]), float(line["ms"])
    return TraceRow(str(line["problem"]), *numbers, counts)


def _check(place: Path, problems: dict[str, Problem], row: TraceRow) -> None:
    """Counts have one entry an expert, none above the tokens, and k pairs a token in all."""
    problem = problems.get(row.problem)
    sound = problem is not None and all(
        len(counts) == problem.num_experts
        and 0 <= min(counts) <= max(counts) <= row.tokens
        and sum(counts) == row.tokens * problem.top_k
        for counts in row.counts
    )
    sound = sound and row.tokens > 0 and row.calls >= 0 and row.ms >= 0
    if not sound:
        raise UsageError(
            f"{place}: {row.tokens} tokens: the numbers contradict each other; record it again"
        )
