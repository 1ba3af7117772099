"""The selection table of a bundle: what the database answers for every token count, as thresholds.

The answers are those of ``tuner.best_config``, asked as a layer asks it: so a bundle runs what the
machine that it was tuned on would run.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.bundle.manifest import Evidence, Table, TableRule
from tuner.problem import Problem
from tuner.runtime.dispatch import Bucket, buckets
from tuner.select.select import EVIDENCE, best_config
from tuner.select.selection import Selection
from tuner.store.database import Database
from tuner.target import Target

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
        found = buckets(_picker(problem, target, source, load))
        tables[load] = Table(found[0].selection.pack, tuple(thresholds(found)))
        for bucket in found:
            selections.setdefault(bucket.selection.variant, bucket.selection)
    return Choice(tables, selections, tuple(_evidence(rows, selections)), bool(rows))


def _picker(problem: Problem, target: Target, source: Path, load: str) -> Pick:
    """The database's answer by token count; all read the packed form of a layer's first answer."""
    pack = best_config(problem, 1, load, target, source).pack

    def pick(count: int) -> Selection:
        return best_config(problem, count, load, target, source, pack)

    return pick


def thresholds(found: Sequence[Bucket]) -> Iterator[TableRule]:
    """The buckets of a layer as rules; neighbours with one variant are one."""
    for bucket, following in itertools.pairwise(found):
        if bucket.selection.variant != following.selection.variant:
            yield TableRule(following.first - 1, bucket.selection.variant)
    yield TableRule(None, found[-1].selection.variant)


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
