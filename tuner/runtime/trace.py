"""Traffic: what real calls look like, recorded into a trace that tuning replays.

``tuner.problem.trace_file`` has the form of the file.
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

from tuner.cpu import fork_safety
from tuner.cpu.worker_pool import REGION
from tuner.errors import UsageError
from tuner.host.arguments import require_path
from tuner.host.files import write_whole
from tuner.problem import Problem
from tuner.problem.trace_file import VERSION
from tuner.runtime import fast_path

# What bounds a trace: counts of so many calls for each octave of tokens, and so many different token
# counts a problem (more are rounded down to powers of two).
SAMPLES = 32
MOST_ROWS = 1024
SAVE_S = 10.0

# Those that listen just now; replaced, never changed, so that a call may look without a lock.
recorders: tuple[Recorder, ...] = ()
_lock = threading.RLock()


def _hear_nothing() -> None:
    """In the child of a fork: the file is its parent's."""
    global recorders
    recorders = ()


fork_safety.hold(_lock, _hear_nothing)


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
        require_path("path", path)
        self.path = Path(path)
        if not self.path.name:
            raise UsageError(f"path: is {str(path)!r}, must be a file's")
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
        fast_path.forget()  # calls that look at nobody; there are no new ones while somebody listens

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
        text = "".join(json.dumps(line) + "\n" for line in self._lines())
        try:
            write_whole(self.path, text.encode(), sync=False)  # a call may wait for it
        except OSError as error:
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
