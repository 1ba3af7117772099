"""Beside: the layer next to installed libraries, at the end of a tuning session, in bounded time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tuner.errors import MoetuneError
from tuner.measure.race import Effort
from tuner.peers import compare
from tuner.peers.recorded import record
from tuner.peers.table import PEERS
from tuner.problem import Problem, footprint
from tuner.problem.workload import Workload
from tuner.store.database import Database
from tuner.target import Target

_EFFORT = Effort(budget_s=1.0, least_rounds=5, most_rounds=40, precision=0.02)
# Processes start in so long, and make and check weights at such a rate.
_START_S, _WEIGHTS_BYTES_S = 4.0, 0.4e9
# The forms of a peer are checked and tried, and one races: so many calls, of a library that takes as
# many times as long as the layer.
_CALLS, _SLOWER = 25, 4


@dataclass(frozen=True)
class Beside:
    """Rows by workload, one a peer, and in one sentence what was left out; empty where nothing was."""

    rows: Mapping[Workload, Sequence[compare.PeerRow]]
    left_out: str = ""


def beside(
    problem: Problem,
    target: Target,
    db: Database,
    took_ns: Mapping[Workload, float],
    *,
    everything: bool,
    time_s: float,
    session: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Beside:
    """Measure the layer beside the first peer that is there and can run it (NumPy, for float32), or with
    ``everything`` beside all of them; rows are stored.

    ``took_ns`` is the layer's own time for each workload, from which the cost is foretold. Workloads that
    do not fit into ``time_s`` are left out, the cheapest come first; with ``everything`` none is.
    A peer that fails is told, and ends the comparison: it takes no result of the session along.
    """
    if target.kind != "cpu":
        return Beside({}, "no other library was measured: this is done on CPUs alone")
    able = [name for name in compare.installed() if not PEERS[name].refusal(problem)]
    names = tuple(able if everything else able[:1])
    if not names:
        return Beside({}, "no library that can run this layer is installed beside it")
    if reason := _refused(problem, names, None if everything else time_s):
        return Beside({}, reason)
    order = sorted(took_ns, key=lambda workload: took_ns[workload])
    rows: dict[Workload, Sequence[compare.PeerRow]] = {}
    end = clock() + time_s
    found = compare.compare(problem, target, db, order, names, effort=_EFFORT)
    with contextlib.closing(found):
        try:
            for workload in order:
                if rows and not everything and clock() + _cost_s(took_ns[workload], names) > end:
                    break
                rows[workload] = next(found)
                record(db, problem, target, rows[workload], session)
        except MoetuneError as error:
            return Beside(rows, f"the comparison with {', '.join(names)} ended early: {error}")
    missing = ", ".join(str(w.tokens) for w in order if w not in rows)
    late = f"{', '.join(names)} at {missing} tokens: not measured for want of time; --peers measures it"
    return Beside(rows, late if missing else "")


def _refused(problem: Problem, names: Sequence[str], time_s: float | None) -> str:
    """Why a comparison is not begun; empty where it is."""
    of, told = footprint.weights_bytes(problem), ", ".join(names)
    need, have = compare.copies(problem, names) * of, footprint.available_bytes()
    if need > have:
        return f"{told}: not measured, {need / 2**30:.1f} GiB are needed and {have / 2**30:.1f} GiB are free"
    cost_s = _START_S + of / _WEIGHTS_BYTES_S
    if time_s is not None and cost_s > time_s:
        return f"{told}: not measured, it takes more than {cost_s:.0f} s here; --peers measures it"
    return ""


def _cost_s(took_ns: float, names: Sequence[str]) -> float:
    return _EFFORT.budget_s + _CALLS * _SLOWER * len(names) * took_ns / 1e9
