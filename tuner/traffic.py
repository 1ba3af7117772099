"""Traffic: what real calls look like, recorded into a small file that tuning replays.

A trace is JSON lines. The first is {"moetune_trace": 1, "problems": {DIGEST: KEY, ...}}; each other one
stands for the calls of one layer form with one token count:

    {"problem": DIGEST, "tokens": 16, "calls": 120, "ms": 61.5, "counts": [[5, 0, 11, ...], ...]}

`ms` is the time of all these calls, and `counts` are pairs by expert [E] of some of them, drawn evenly.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner import fixed, fork
from tuner.errors import UsageError
from tuner.pool import REGION
from tuner.problem import Problem

VERSION = 1
# What bounds a trace: counts of so many calls for each octave of tokens, so many different token
# counts a problem (more are rounded down to powers of two), so many bytes when it is read.
SAMPLES = 32
MOST_ROWS = 1024
MOST_BYTES = 64 << 20
SAVE_S = 10.0

# Those that listen just now; replaced, never changed, so that a call may look without a lock.
recorders: tuple[Recorder, ...] = ()
_lock = threading.Lock()


def _hear_nothing() -> None:
    """In the child of a fork: the file is its parent's."""
    global recorders
    recorders = ()


fork.hold(_lock, _hear_nothing)


@dataclass(frozen=True)
class Row:
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
    rows: tuple[Row, ...]


@dataclass
class _Seen:
    """Calls of a problem while they are recorded: [calls, ns] by tokens, and samples by octave."""

    problem: Problem
    totals: dict[int, list[int]] = field(default_factory=dict)
    samples: dict[int, list[tuple[int, list[int]]]] = field(default_factory=dict)
    drawn_from: dict[int, int] = field(default_factory=dict)


class Recorder:
    """Records the calls of all layers of this process from `start` to `stop`, or inside a `with`.

    The file is written when it starts, every 10 s while calls come, and when it stops. It stays below
    a megabyte for layers of up to 128 experts.

    Raises UsageError when the file can't be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._seen: dict[str, _Seen] = {}
        self._rng = random.Random(0)
        self._saved = 0.0

    def __enter__(self) -> Recorder:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Records from here on."""
        global recorders
        self.save()
        with _lock:
            recorders = (*(r for r in recorders if r is not self), self)
        fixed.forget()  # calls that look at nobody; there are no new ones while somebody listens

    def stop(self) -> None:
        """Records no more, and writes the file."""
        global recorders
        with _lock:
            recorders = tuple(r for r in recorders if r is not self)
        with REGION:  # a call that is running still tells
            self.save()

    def record(self, problem: Problem, tokens: int, counts: npt.NDArray[np.int64], ns: int) -> None:
        """Adds one call; layers do it, one at a time."""
        seen = self._seen.get(problem.digest)
        if seen is None:
            seen = self._seen[problem.digest] = _Seen(problem)
        octave = tokens.bit_length()
        row = tokens if tokens in seen.totals or len(seen.totals) < MOST_ROWS else 1 << (octave - 1)
        total = seen.totals.setdefault(row, [0, 0])
        total[0] += 1
        total[1] += ns
        self._sample(seen, octave, tokens, counts)
        if time.monotonic() - self._saved > SAVE_S:
            with contextlib.suppress(UsageError):  # a full disk is told at the end, not in a call
                self.save()

    def _sample(self, seen: _Seen, octave: int, tokens: int, counts: npt.NDArray[np.int64]) -> None:
        """Keeps SAMPLES of an octave's calls, each with the same chance. Vitter 1985, algorithm R."""
        number = seen.drawn_from[octave] = seen.drawn_from.get(octave, 0) + 1
        kept = seen.samples.setdefault(octave, [])
        if len(kept) < SAMPLES:
            kept.append((tokens, counts.tolist()))
        elif (place := self._rng.randrange(number)) < SAMPLES:
            kept[place] = (tokens, counts.tolist())

    def save(self) -> None:
        """Writes the file, at once or not at all."""
        self._saved = time.monotonic()
        partial = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            partial.write_text("".join(json.dumps(line) + "\n" for line in self._lines()))
            partial.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise UsageError(
                f"{self.path}: cannot be written ({error.strerror}); name another"
            ) from error

    def _lines(self) -> Iterator[dict[str, Any]]:
        problems = {digest: seen.problem.key for digest, seen in self._seen.items()}
        yield {"moetune_trace": VERSION, "problems": problems}
        for digest, seen in self._seen.items():
            drawn: dict[int, list[list[int]]] = {}
            for samples in seen.samples.values():
                for tokens, counts in samples:
                    drawn.setdefault(tokens, []).append(counts)
            for tokens in sorted(seen.totals.keys() | drawn.keys()):
                calls, ns = seen.totals.get(tokens, (0, 0))
                about = {"problem": digest, "tokens": tokens, "calls": calls, "ms": ns / 1e6}
                yield about | {"counts": drawn.get(tokens, [])}


def trace(path: str | os.PathLike[str]) -> Recorder:
    """Records the calls of all layers into a file: ``with tuner.trace("traffic.jsonl"): ...``."""
    return Recorder(path)


def read(path: str | os.PathLike[str]) -> Traffic:
    """Reads a trace. Raises UsageError, with the line, when it is none or damaged."""
    place = Path(path)
    try:
        if place.stat().st_size > MOST_BYTES:
            raise UsageError(f"{place}: has more than {MOST_BYTES >> 20} MiB, which no trace has")
        lines = place.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{place}: cannot be read ({error}); give a file of tuner.trace"
        ) from error
    found: list[Any] = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_problems(json.loads(line)) if number == 1 else _row(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{place}: line {number} is none of a trace ({error!r}); record it again"
            ) from error
    if not found:
        raise UsageError(f"{place}: is empty, so it is no trace; record one with tuner.trace")
    problems, *rows = found
    for row in rows:
        _check(place, problems, row)
    return Traffic(problems, tuple(rows))


def _problems(line: dict[str, Any]) -> dict[str, Problem]:
    if line["moetune_trace"] != VERSION:
        raise ValueError(f"version {line['moetune_trace']}, this moetune reads {VERSION}")
    return {digest: Problem.from_key(key) for digest, key in line["problems"].items()}


def _row(line: dict[str, Any]) -> Row:
    counts = tuple(tuple(int(count) for count in counts) for counts in line["counts"])
    numbers = int(line["tokens"]), int(line["calls"]), float(line["ms"])
    return Row(str(line["problem"]), *numbers, counts)


def _check(place: Path, problems: dict[str, Problem], row: Row) -> None:
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
