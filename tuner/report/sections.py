"""Sections: one problem on one target with all that a page shows of it, for the service and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from tuner.report.answers import Answer, answers
from tuner.report.drawings import Drawing, changed, drawings, is_default, search
from tuner.report.machines import SideBySide
from tuner.report.next_steps import Step, steps
from tuner.report.overview import Overview, inverse
from tuner.report.peer_times import PeerFile, latest
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import TrialRow


@dataclass(frozen=True)
class TrialLine:
    """A trial for a table.

    Attributes:
        speed, low, high: over the default's, with its interval; None where it was not timed.
        measured: in the search (``trial``) or in the finals (``final``); empty where it was not timed.
        changes: parameter -> (value of the default, its own).
    """

    number: int
    status: str
    message: str
    speed: float | None
    low: float | None
    high: float | None
    measured: str
    changes: Mapping[str, tuple[int, int]]
    is_default: bool
    created: str


@dataclass(frozen=True)
class Section:
    """An overview with what stands beside it: the peers' newest rows, and the layer on other machines.

    ``shipped``: its winners travel with the package, and nothing of the kind was tuned here.
    """

    view: Overview
    peers: tuple[PeerTimeRow, ...]
    machines: SideBySide
    shipped: bool = False

    @cached_property
    def answers(self) -> tuple[Answer, ...]:
        """What is known, in sentences."""
        return answers(self.view, self.peers, self.machines)

    @cached_property
    def drawings(self) -> tuple[Drawing, ...]:
        """All figures but that of the trials."""
        return tuple(d for d in drawings(self.view, self.peers) if d != self.search)

    @cached_property
    def search(self) -> Drawing | None:
        """The figure of the trials."""
        return search(self.view)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """What to type now."""
        counts = [cell.tokens for cell in self.view.cells]
        return steps(self.view.problem, self.view.target, counts)

    @cached_property
    def trials(self) -> tuple[TrialLine, ...]:
        """The trials of the chosen workload, oldest first."""
        return tuple(_lines(self.view))


def section(view: Overview, file: PeerFile, machines: SideBySide, shipped: bool = False) -> Section:
    """The section of a view; of a peer's rows in database and file the newest count."""
    rows = latest([*view.peers, *file.of(view.problem, view.target)])
    return Section(view, tuple(rows), machines, shipped)


def _lines(view: Overview) -> Iterator[TrialLine]:
    for number, row in enumerate(view.trials, 1):
        yield _line(view, number, row)


def _line(view: Overview, number: int, row: TrialRow) -> TrialLine:
    timed = row.final if row.final and row.final.ratio else None
    ratio = timed.ratio if timed else None
    return TrialLine(
        number=number,
        status=row.status,
        message=row.message,
        speed=inverse(ratio) if ratio else None,
        low=inverse(timed.ratio_high) if timed and timed.ratio_high else None,
        high=inverse(timed.ratio_low) if timed and timed.ratio_low else None,
        measured=timed.kind if timed else "",
        changes=changed(view, row),
        is_default=is_default(view, row),
        created=row.created,
    )
