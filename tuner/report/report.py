"""Report: what is known of one problem in one file: HTML with its plots, or Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tuner.errors import DatabaseError
from tuner.problem import Problem
from tuner.report import shipped_copy, words
from tuner.report.machines import SideBySide, side_by_side
from tuner.report.overview import Overview, WorkloadWinner, overview
from tuner.report.peer_times import PeerFile
from tuner.report.sections import Section, section
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow
from tuner.target import Target
from tuner.version import __version__

_COLUMNS = ("load", "tokens", "time", "default", "speed-up", "rate", "of ceiling", "winner changes")
_MOST_TARGETS = 50


def sections(db: Database, problem: Problem, peers: PeerFile) -> list[Section]:
    """What is known of a problem, one section for each target that has winners.

    Where nothing of it was tuned, it is what ships.

    Raises:
        DatabaseError: there is none; the message names the problems that have some.
    """
    other = shipped_copy.database()
    if other and not db.best(problem.digest) and other.best(problem.digest):
        return _sections(other, problem, peers, side_by_side(db, problem), shipped=True)
    return _sections(db, problem, peers, side_by_side(db, problem))


def _sections(
    db: Database, problem: Problem, peers: PeerFile, machines: SideBySide, shipped: bool = False
) -> list[Section]:
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
        section(
            overview(db, problem, Target.from_key({**row["target"], "name": row["target_name"]})),
            peers,
            machines,
            shipped,
        )
        for row in targets.values()
    ]


def html(found: Sequence[Section]) -> str:
    """One self-contained page; nothing in it is loaded from anywhere."""
    from tuner.report import drawings, page  # matplotlib is an extra

    load = found[0].view.chosen.load
    drawn = [
        [drawings.numbered(drawing, number) for drawing in one.drawings]
        for number, one in enumerate(found)
    ]
    searched = [
        one.search and drawings.numbered(one.search, number) for number, one in enumerate(found)
    ]
    return page.fill(
        "report.html", sections=found, drawn=drawn, searched=searched, version=__version__,
        latest=_latest(found), beside=drawings.beside(found[0].machines, load),
    )  # fmt: skip


def markdown(found: Sequence[Section]) -> str:
    """Tables for a pull request."""
    problem = found[0].view.problem
    lines = [f"## {problem.name or problem.digest}", "", problem.describe(), ""]
    lines += _machines(found[0].machines)
    for one in found:
        view = one.view
        lines += [f"On {view.target.describe()}:", "", *_table(view.cells), ""]
        lines += [*_peers(one.peers), *_choice(view), ""]
    lines.append(f"moetune {__version__}, rows recorded up to {_latest(found)}.")
    return "\n".join(lines) + "\n"


def _machines(machines: SideBySide) -> list[str]:
    """The winners of all machines, where there are several."""
    if len(machines.machines) < 2:
        return []
    titles = [f"{one.label}, {one.problem.dtype}" for one in machines.machines]
    rows = [
        [row.load, str(row.tokens), *(words.duration(t.median_ns) if t else "" for t in row.times)]
        for row in machines.rows
    ]
    return ["Machines side by side:", "", *_markdown(["load", "tokens", *titles], rows), ""]


def _peers(rows: Sequence[PeerTimeRow]) -> list[str]:
    """What other libraries took."""
    titles = ["load", "tokens", "library", "its time", "its time / ours", "measured"]
    lines = [
        [row.load, str(row.tokens), f"{row.peer} {row.version}".strip(),
         words.duration(row.median_ns), _ratio(row), row.created[:10]]
        for row in rows
    ]  # fmt: skip
    return [*_markdown(titles, lines), ""] if lines else []


def _ratio(row: PeerTimeRow) -> str:
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return "not paired"
    return words.times(row.ratio, row.ratio_low, row.ratio_high)


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(titles)
    return [f"| {' | '.join(line)} |" for line in (titles, rule, *rows)]


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


def _latest(found: Sequence[Section]) -> str:
    return max(cell.created for one in found for cell in one.view.cells)
