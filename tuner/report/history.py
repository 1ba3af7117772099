"""History: when the winner of one workload was measured, and whether it became slower or faster.

Finals and audits are measurements of trials, each with its date. Those that were taken together are one
occasion, of which the winner stands for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from tuner.problem.workload import Workload
from tuner.store.records import MeasurementRow, SessionRow, TrialRow

# Finals of one workload follow each other more closely than this.
_TOGETHER = timedelta(minutes=10)


@dataclass(frozen=True)
class Occasion:
    """One time at which a winner was measured.

    Attributes:
        created: UTC, ISO 8601.
        kind: ``final`` (a session's finals) or ``audit``.
        median_ns, low_ns, high_ns: with the 95 % interval.
        ratio: time over the default's in the same race; None where it is not recorded.
        toolchain: the compiler's version; empty where it is not recorded.
    """

    created: str
    kind: str
    variant: str
    temperature: str
    median_ns: float
    low_ns: float
    high_ns: float
    ratio: float | None
    toolchain: str


class Change(NamedTuple):
    """A later occasion beside an earlier one: the later time over the earlier, and whether the intervals
    of the two medians lie apart."""

    before: Occasion
    after: Occasion
    ratio: float
    told_apart: bool


class _Taken(NamedTuple):
    when: str
    trial: TrialRow
    row: MeasurementRow


def occasions(
    trials: Sequence[TrialRow],
    sessions: Sequence[SessionRow],
    workload: Workload,
    stored: Mapping[int, float],
) -> tuple[Occasion, ...]:
    """The occasions of one workload's trials, oldest first; ``sessions`` say who won in which finals.

    ``stored`` has the ratio of a winner's trial by its number: an imported measurement lacks it.
    """
    won = _winners(sessions, workload)
    taken = sorted(_taken(trials), key=lambda one: (one.when, one.row.kind))
    return tuple(_occasion(_standing(group, won), stored) for group in _groups(taken))


def change(found: Sequence[Occasion]) -> Change | None:
    """The last occasion beside the one before; None where there are not two that can be compared."""
    if not found:
        return None
    last = found[-1]
    for earlier in reversed(found[:-1]):
        if earlier.temperature == last.temperature and earlier.median_ns:
            apart = last.low_ns > earlier.high_ns or last.high_ns < earlier.low_ns
            return Change(earlier, last, last.median_ns / earlier.median_ns, apart)
    return None


def _taken(trials: Sequence[TrialRow]) -> Iterator[_Taken]:
    for trial in trials:
        for row in trial.measurements:
            if row.kind != "trial":
                # An imported measurement has no samples, and the date of its import.
                when = row.created if row.samples and row.created else trial.created
                yield _Taken(when, trial, row)


def _groups(taken: Sequence[_Taken]) -> Iterator[list[_Taken]]:
    group = list(taken[:1])
    for before, one in pairwise(taken):
        if one.row.kind != before.row.kind or _far(before.when, one.when):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _far(before: str, after: str) -> bool:
    return datetime.fromisoformat(after) - datetime.fromisoformat(before) > _TOGETHER


def _winners(sessions: Sequence[SessionRow], workload: Workload) -> set[str]:
    """The variants that won the workload in any session."""
    place = {"tokens": workload.tokens, "load": workload.load}
    return {
        cell.get("winner", "")
        for session in sessions
        for cell in session.data.get("cells", ())
        if cell.get("workload", {}).items() >= place.items()
    }


def _standing(group: Sequence[_Taken], won: set[str]) -> _Taken:
    """Who stands for a group: the fastest of those that won a session, else the fastest of all."""
    named = [one for one in group if one.trial.variant in won] or list(group)
    return min(named, key=lambda one: (one.row.ratio or 1.0, one.row.median_ns))


def _occasion(one: _Taken, stored: Mapping[int, float]) -> Occasion:
    told = one.row.ratio if one.row.ratio is not None else stored.get(one.trial.id or 0)
    return Occasion(
        created=one.when,
        kind=one.row.kind,
        variant=one.trial.variant,
        temperature=one.row.temperature,
        median_ns=one.row.median_ns,
        low_ns=one.row.low_ns,
        high_ns=one.row.high_ns,
        ratio=told,
        toolchain=one.trial.environment.get("toolchain", ""),
    )
