"""A layer that tunes itself for the token counts that it is called with: `tuner.load(..., tune=...)`.

A session is a process of its own, which records winners in the database; then a new layer takes them from
there, and takes the place of the former one between two calls. So a call always runs on one whole layer, and
a session that fails leaves the layer as it was.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import MoetuneError, UsageError
from tuner.host.arguments import require
from tuner.host.process import Completed, run
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.runtime.layer import Layer
from tuner.runtime.stats import Stats
from tuner.select.selection import Selection
from tuner.target import Target

FIRST_USE, BACKGROUND = "first-use", "background"
MODES = (FIRST_USE, BACKGROUND)
# A winner serves token counts within a factor of two without another session.
NEAR_OCTAVES = 1.0
# A session may take longer than its budget: for its finals, and while another tuner has the database.
_GRACE_S = 120.0

# One session at a time in a process: the next one may find its winners in the database.
_session = threading.Lock()


def _renew() -> None:
    """In the child of a fork: who held the lock is not there."""
    global _session
    _session = threading.Lock()


os.register_at_fork(after_in_child=_renew)


@dataclass(frozen=True)
class Asked:
    """What sessions for a layer tune: `time_s` seconds for each number of tokens."""

    problem: Problem
    target: Target
    db: Path
    load: str
    time_s: float

    def session(self, tokens: Sequence[int]) -> Completed:
        """Runs a session for these numbers of tokens. Its process ends with this one, whatever ends it."""
        seconds = self.time_s * len(tokens)
        asked = {
            "problem": self.problem.key, "name": self.problem.name, "target": self.target.key,
            "db": str(self.db), "tokens": list(tokens), "load": self.load, "time_s": seconds,
        }  # fmt: skip
        command = [sys.executable, "-m", "tuner.tune.for_layer", json.dumps(asked)]
        return run(command, 2 * seconds + _GRACE_S)


class TuningLayer:
    """One MoE layer, as `tuner.Layer` is, that tunes itself for the token counts of its calls.

    Made by `tuner.load(..., tune=...)`. The first call with a number of tokens for which nothing near was
    tuned on this machine begins a session. With "first-use" that call waits for it, with "background" it is
    answered at once by the best kernel that is known, and the winner serves the calls after the session.
    Winners are recorded in the database, so the next process finds them.

    Where a session fails (no compiler, no memory, a database that is read-only), the layer says so in a
    RuntimeWarning, goes on with the kernels that it has, and begins no more. Sessions end with the process,
    and the child of a fork begins none. The layer keeps the weights that it was given.
    """

    def __init__(
        self, make: Callable[[], Layer], select: Callable[[int], Selection], asked: Asked, mode: str
    ) -> None:
        """`make` makes a layer of what the database has now, and `select` asks it for a token count."""
        self._make, self._select, self._asked, self._mode = make, select, asked, mode
        self._layer = make()
        self.problem, self.load = self._layer.problem, self._layer.load
        self._met: set[int] = set()
        self._waiting: list[int] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._process, self._failed = os.getpid(), False

    def __call__(self, x: Any, return_routing: bool = False, out: Any = None) -> Any:
        """y [T, D] for x [T, D], as `tuner.Layer` answers; the first call with T tokens may tune."""
        shape: tuple[int, ...] = getattr(x, "shape", ())
        if len(shape) == 2 and shape[0] not in self._met and shape[1] == self.problem.hidden:
            self._meet([int(shape[0])])
        return self._layer(x, return_routing, out)

    def __repr__(self) -> str:
        return repr(self._layer).replace("<Layer", "<TuningLayer", 1)

    def _repr_html_(self) -> str:
        return self._layer._repr_html_()

    def __reduce__(self) -> Any:
        """Neither copied nor pickled, as a Layer."""
        return self._layer.__reduce__()

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why."""
        return self._layer.selection(tokens)

    def prepare(self, tokens: Iterable[int]) -> None:
        """Tunes for these numbers of tokens as their first calls would, in one session, and compiles and loads
        what serves them."""
        require("tokens", tokens, Iterable)
        counts = [Workload(count).tokens for count in tokens]
        self._meet(list(dict.fromkeys(counts)))
        self._layer.prepare(counts)

    def stats(self) -> Stats:
        """What the layer did since it took the last winners."""
        return self._layer.stats()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits for sessions in the background; whether they have ended after at most so many seconds."""
        thread = self._thread
        if thread is not None and self._is_here():
            thread.join(timeout_s)
            return not thread.is_alive()
        return True

    def _is_here(self) -> bool:
        """Whether this is the process that made the layer, not the child of a fork."""
        return os.getpid() == self._process

    def _meet(self, counts: Sequence[int]) -> None:
        """Tunes for those of these token counts that are new and that nothing near was tuned for."""
        new = [count for count in counts if count and count not in self._met]
        self._met.update(counts)
        if self._failed or not self._is_here():
            return
        lacking = _lacking(new, self._layer.selection)
        if self._mode == BACKGROUND:
            self._in_background(lacking)
        else:
            self._tune(lacking)

    def _in_background(self, counts: Sequence[int]) -> None:
        with self._lock:
            self._waiting += counts
            if self._waiting and self._thread is None:
                self._thread = threading.Thread(target=self._tune_waiting, daemon=True)
                self._thread.start()

    def _tune_waiting(self) -> None:
        """The life of the thread: session after session, until nothing is waiting."""
        while True:
            with self._lock:
                counts = _lacking(self._waiting, self._layer.selection)
                self._waiting.clear()
                if not counts or self._failed:
                    self._thread = None
                    return
            self._tune(counts)

    def _tune(self, counts: Sequence[int]) -> None:
        """One session, unless the database has winners by now, and the layer that they make."""
        if not counts:
            return
        why = ""
        with _session:
            try:
                if lacking := _lacking(counts, self._select):
                    why = _why(self._asked.session(lacking))
                if not why:
                    self._layer = self._make()
            except (MoetuneError, OSError) as error:
                why = str(error)
        if why and not self._failed:
            self._failed = True
            told = f"tune={self._mode!r}: {why}; the layer goes on with the kernels that it has"
            warnings.warn(told, RuntimeWarning, stacklevel=4)


def _lacking(counts: Sequence[int], select: Callable[[int], Selection]) -> list[int]:
    """Those token counts for which nothing near was tuned on this machine; all where that cannot be told,
    as the session will name the reason."""
    try:
        return [count for count in counts if not _is_near(select(count))]
    except MoetuneError:
        return list(counts)


def _is_near(found: Selection) -> bool:
    near = found.match == "tokens" and found.distance <= NEAR_OCTAVES
    return found.match == "exact" or near


def check(mode: object, time_s: object) -> None:
    """Raises UsageError where `tune=` or `tune_s=` of `tuner.load` makes no sense."""
    require("tune", mode, str)
    if mode not in MODES:
        raise UsageError(f"tune={mode!r}: not known; use one of {', '.join(MODES)}")
    require("tune_s", time_s, int, float)
    if not (isinstance(time_s, int | float) and 0 < time_s < float("inf")):
        raise UsageError(f"tune_s={time_s!r}: must be seconds above 0; give some for each session")


def _why(ended: Completed) -> str:
    """Why a session recorded nothing; empty where it did."""
    if ended.timed_out:
        return f"the session did not end in {ended.seconds:.0f} s; is another tuner at work?"
    said = ended.stderr.strip().splitlines() or [f"the session ended with {ended.returncode}"]
    return said[-1] if ended.returncode else ""
