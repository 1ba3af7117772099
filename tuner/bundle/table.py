"""The selection table of a bundle: what the database answers for every token count, as thresholds.

The answers are those of ``tuner.select.best_config``, asked at enough token counts to find where they
change: so a bundle runs what the machine that it was tuned on would run.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.bundle.manifest import Evidence, Rule, Table
from tuner.database import Database
from tuner.problem import Problem
from tuner.select import EVIDENCE, best_config
from tuner.selection import Selection
from tuner.target import Target

# Beyond this many tokens an answer stays what it is.
_MOST_TOKENS = 1 << 17
_NO_DATABASE = Path(os.devnull)

Pick = Callable[[int], Selection]


@dataclass(frozen=True)
class Choice:
    """The tables of one target by load, every selection that they name by variant, and the evidence."""

    tables: dict[str, Table]
    selections: dict[str, Selection]
    evidence: tuple[Evidence, ...]
    tuned: bool


def choose(problem: Problem, target: Target, db: Path) -> Choice:
    """What the database says of a problem on a target; the template's default where it has no winner
    of this architecture."""
    rows = _winners(problem, target, db)
    source = db if rows else _NO_DATABASE
    tables: dict[str, Table] = {}
    selections: dict[str, Selection] = {}
    for load in dict.fromkeys(("uniform", *(row["load"] for row in rows))):
        pick = _picker(problem, target, source, load)
        counts = {row["tokens"] for row in rows}
        rules = list(thresholds(pick, counts))
        tables[load] = Table(pick(1).pack, tuple(itertools.starmap(Rule, rules)))
        for limit, variant in rules:
            selections.setdefault(variant, pick(_MOST_TOKENS if limit is None else limit))
    return Choice(tables, selections, tuple(_evidence(rows, selections)), bool(rows))


def _picker(problem: Problem, target: Target, source: Path, load: str) -> Pick:
    """The database's answer by token count; all read the packed form of a layer's first answer."""
    pack = best_config(problem, 1, load, target, source).pack

    @functools.cache
    def pick(count: int) -> Selection:
        return best_config(problem, count, load, target, source, pack)

    return pick


def thresholds(pick: Pick, counts: Iterable[int]) -> Iterator[tuple[int | None, str]]:
    """The variants that `pick` answers, as (up to so many tokens, variant), the last one without a limit.

    It is asked at the tuned `counts`, at an eighth and at eight times of them (the furthest that a winner
    reaches) and at powers of two; between two that differ the edge is searched for.
    """
    points = sorted(_points(sorted(counts)))
    for low, high in itertools.pairwise(points):
        yield from _edges(pick, low, high)
    yield None, pick(points[-1]).variant


def _points(counts: list[int]) -> set[int]:
    octaves = {1 << power for power in range(_MOST_TOKENS.bit_length())}
    edges = {near for a in counts for near in (a // 8, a, 8 * a, 8 * a + 1)}
    return {point for point in octaves | edges if 1 <= point <= _MOST_TOKENS}


def _edges(pick: Pick, low: int, high: int) -> Iterator[tuple[int, str]]:
    """Where the answer changes from `low` to `high`: the last count of each answer."""
    if pick(low).variant == pick(high).variant:
        return
    if high - low == 1:
        yield low, pick(low).variant
        return
    middle = (low + high) // 2
    yield from _edges(pick, low, middle)
    yield from _edges(pick, middle, high)


def _winners(problem: Problem, target: Target, db: Path) -> list[dict[str, Any]]:
    """The winners of this problem for this architecture, whatever the machine."""
    if not db.exists() or db.stat().st_size == 0:
        return []
    with Database(db, read_only=True) as database:
        rows = database.best(problem_id=problem.digest)
    return [row for row in rows if row["arch"] == target.arch]


def _evidence(
    rows: Iterable[dict[str, Any]], selections: dict[str, Selection]
) -> Iterator[Evidence]:
    """What was measured of the variants that are kept."""
    for row in rows:
        if row["variant"] in selections:
            kept = {name: row[name] for name in EVIDENCE}
            yield Evidence(row["tokens"], row["load"], row["variant"], kept)
