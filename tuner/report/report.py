"""Report: what is known of one problem in one file: HTML with its plots, or Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tuner.errors import DatabaseError
from tuner.problem import Problem
from tuner.report import words
from tuner.report.overview import Overview, WorkloadWinner, overview
from tuner.report.peer_times import PeerTimes
from tuner.store import listings
from tuner.store.database import Database
from tuner.target import Target
from tuner.version import __version__

_COLUMNS = ("load", "tokens", "time", "default", "speed-up", "rate", "of ceiling", "winner changes")
_MOST_TARGETS = 50


def views(db: Database, problem: Problem) -> list[Overview]:
    """The overviews of a problem, one for each target that has winners.

    Raises:
        DatabaseError: there is none; the message names the problems that have some.
    """
    rows = db.best(problem.digest)
    targets = {row["target_id"]: row for row in rows}
    if not targets:
        there = sorted({row["problem_name"] for row in listings.overview(db, 0, _MOST_TARGETS)})
        have = (
            f"there are winners of {', '.join(there)}" if there else "the database has none at all"
        )
        raise DatabaseError(
            f"{problem.name or problem.digest}: no winner in {db.path}; {have}; run `moetune tune`"
        )
    return [
        overview(db, problem, Target.from_key({**row["target"], "name": row["target_name"]}))
        for row in targets.values()
    ]


def html(found: Sequence[Overview], peers: PeerTimes) -> str:
    """One self-contained page; nothing in it is loaded from anywhere."""
    from tuner.report import page  # matplotlib is an extra

    drawn = [
        [page.numbered(drawing, number) for drawing in page.drawings(view, peers)]
        for number, view in enumerate(found)
    ]
    return page.fill(
        "report.html", views=found, drawn=drawn, version=__version__, latest=_latest(found)
    )


def markdown(found: Sequence[Overview]) -> str:
    """Tables for a pull request."""
    problem = found[0].problem
    lines = [f"## {problem.name or problem.digest}", "", problem.describe(), ""]
    for view in found:
        lines += [f"On {view.target.describe()}:", "", *_table(view.cells), "", *_choice(view), ""]
    lines.append(f"moetune {__version__}, rows recorded up to {_latest(found)}.")
    return "\n".join(lines) + "\n"


def _table(cells: Sequence[WorkloadWinner]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for cell in cells:
        yield f"| {' | '.join(row(cell))} |"


def row(cell: WorkloadWinner) -> tuple[str, ...]:
    """The texts of one workload, for a table."""
    share = f"{words.percent(cell.fraction)} of {cell.ceiling}" if cell.fraction is not None else ""
    return (
        cell.load,
        f"{cell.tokens} ({cell.temperature})" if cell.temperature else f"{cell.tokens}",
        words.duration(cell.median_ns),
        words.duration(cell.default_ns) if cell.default_ns is not None else "not recorded",
        words.times(cell.speedup, cell.speedup_low, cell.speedup_high),
        words.rate(cell.ceiling, cell.gflop_s, cell.gb_s),
        share,
        "none: the default wins" if cell.is_default else words.changed(cell.changes or {}),
    )


def _choice(view: Overview) -> Iterator[str]:
    told = view.explanation
    if told.winner is None:
        return
    winner = told.winner
    yield (
        f"At {view.chosen.tokens} tokens, {view.chosen.load}: `{winner.variant}`, trial {winner.position} "
        f"of {told.found.trials}, found {winner.found}."
    )


def _latest(found: Sequence[Overview]) -> str:
    return max(cell.created for view in found for cell in view.cells)
