"""Answer: what a tuning session ends with, in a user's terms: how fast the layer is now, how close to what the
machine can do, beside which library, and what tuning gained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from tuner.cli import screen
from tuner.peers.table import PEERS
from tuner.problem.workload import Workload
from tuner.report import words
from tuner.space.variant import changes as difference
from tuner.space.variant import parse

if TYPE_CHECKING:
    from tuner.peers.compare import PeerRow
    from tuner.tune.result import CellResult

# With fewer trials nobody knows: where a grid was recorded whole, the search came within 2 % of its best
# after 12 trials at worst (docs/results/search.md).
ENOUGH_TRIALS = 12
# Columns that are never folded.
_WHOLE = ("tokens", "load", "time")
GAINED, NO_GAIN, UNDECIDED, LOADED = "gained", "no gain", "not decided", "machine was busy"


@dataclass(frozen=True)
class Gain:
    """What tuning gained in one cell: one of the four words, and the sentence that says it."""

    word: str
    sentence: str


def gain(cell: CellResult, elapsed_s: float) -> Gain:
    """What a cell's tuning gained; ``elapsed_s`` is what the whole session took."""
    tried = sum(cell.statuses.values())
    if cell.loaded:
        stays = "; an earlier winner, if there is one, stays" if cell.is_default else ""
        taken = words.percent(cell.foreign)
        return Gain(
            LOADED,
            f"other processes took {taken} of the machine{stays}; run it again when it is quiet",
        )
    if not cell.is_default:
        speed = words.speed_up(cell.ratio, cell.ratio_low, cell.ratio_high)
        return Gain(
            GAINED,
            f"gained {100 * (speed[0] - 1):.0f} %: {words.times(*speed)} of the default's speed",
        )
    if tried < ENOUGH_TRIALS:
        more = words.rough(elapsed_s * ENOUGH_TRIALS / max(tried, 1))
        took = words.rough(elapsed_s)
        return Gain(
            UNDECIDED,
            f"not decided: {words.counted(tried, 'candidate')} tried in {took}; give it {more}",
        )
    within = max(1, math.ceil(100 * max(cell.noise_floor, cell.regret - 1)))
    return Gain(NO_GAIN, f"no gain: the default is within {within} % of the best of {tried} tried")


def limit(cell: CellResult) -> str:
    """How close to what the machine can do: ``93 % of memory bandwidth``."""
    return words.share_of(cell.ceiling, cell.ceiling_fraction)


def tables(
    cells: Sequence[CellResult], beside: Mapping[Workload, Sequence[PeerRow]], elapsed_s: float
) -> Iterator[Table]:
    """A row a cell: time, share of the limit, speed beside a peer, what tuning gained. Several peers have a
    table of their own: 80 columns don't hold them beside the rest."""
    peers = list(dict.fromkeys(row.peer for rows in beside.values() for row in rows))
    yield _table(cells, beside, peers if len(peers) == 1 else [], elapsed_s)
    if len(peers) > 1:
        names = [f"> {PEERS[name].title or name}" for name in peers]
        loads = _loads(cells)
        columns = ["> tokens", *(["load"] if loads else []), *names]
        rows = [[*_place(cell, loads), *_besides(cell, beside, peers)] for cell in cells]
        made = screen.table(columns, rows, whole=_WHOLE)
        made.title, made.title_justify = "Times of other libraries over ours", "left"
        yield made


def _table(
    cells: Sequence[CellResult],
    beside: Mapping[Workload, Sequence[PeerRow]],
    peers: Sequence[str],
    elapsed_s: float,
) -> Table:
    named = [f"> against {PEERS[name].title or name}" for name in peers]
    loads = _loads(cells)
    columns = [
        "> tokens", *(["load"] if loads else []), "> time", "share of the limit", *named, "tuning",
    ]  # fmt: skip
    rows = []
    for cell in cells:
        found = gain(cell, elapsed_s)
        told = found.word
        if told == GAINED:
            told = f"{100 * (words.inverse(cell.ratio) - 1):.0f} % faster"
        times = words.duration(cell.median_ns), limit(cell)
        rows.append([*_place(cell, loads), *times, *_besides(cell, beside, peers), told])
    return screen.table(columns, rows, whole=_WHOLE)


def _loads(cells: Sequence[CellResult]) -> bool:
    """Whether the loads are to be named."""
    return {cell.workload.load for cell in cells} != {"uniform"}


def _place(cell: CellResult, loads: bool) -> list[str]:
    return [str(cell.workload.tokens), *([cell.workload.load] if loads else [])]


def _besides(
    cell: CellResult, beside: Mapping[Workload, Sequence[PeerRow]], peers: Sequence[str]
) -> list[str]:
    of = {row.peer: row for row in beside.get(cell.workload, ())}
    return [_beside(of.get(name)) for name in peers]


def _beside(row: PeerRow | None) -> str:
    if row is None:
        return "-"
    return f"{row.ratio:.2f}x" if row.ratio < 10 else f"{row.ratio:.0f}x"


def sentences(cells: Sequence[CellResult], elapsed_s: float) -> Iterator[str]:
    """One a cell: what tuning gained there, and by what."""
    for cell in cells:
        found = gain(cell, elapsed_s)
        by = f"; {changed(cell)}" if found.word == GAINED else ""
        load = "" if cell.workload.load == "uniform" else f", {cell.workload.load}"
        yield f"{words.counted(cell.workload.tokens, 'token')}{load}: {found.sentence}{by}"


def changed(cell: CellResult) -> str:
    """What the winner has where the default has something else."""
    default, winner = parse(cell.default), parse(cell.winner)
    if default.template != winner.template:
        return f"template {winner.template}"
    return words.changed(difference(default.config, winner.config))
