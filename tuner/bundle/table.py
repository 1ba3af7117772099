"""The selection table of a bundle: what the database answers for every token count, as thresholds.

The answers are those of ``tuner.best_config``, asked as a layer asks it: so a bundle runs what the
machine that it was tuned on would run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.bundle.manifest import Evidence, Table, TableRule
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.runtime.dispatch import Bucket, buckets
from tuner.select import select
from tuner.select.select import EVIDENCE
from tuner.select.selection import Selection
from tuner.select.winner_cache import Group, Row, shipped_winners, winners
from tuner.target import Target

Pick = Callable[[int], Selection]


@dataclass(frozen=True)
class Choice:
    """The tables of one target by load, every selection that they name by variant, and the evidence.

    ``shipped`` says that all that was tuned are winners that moetune brings.
    """

    tables: dict[str, Table]
    selections: dict[str, Selection]
    evidence: tuple[Evidence, ...]
    tuned: bool
    shipped: bool


def choose(problem: Problem, target: Target, db: Path) -> Choice:
    """What the database and the winners that ship say of a problem on a target; the template's default where
    there is no winner of this architecture."""
    groups = (*winners(db, problem), *shipped_winners(problem))
    rows = _rows(groups, target)
    known = groups if rows else ()
    tables: dict[str, Table] = {}
    selections: dict[str, Selection] = {}
    for load in dict.fromkeys(("uniform", *(row["load"] for row in rows))):
        found = buckets(_picker(problem, target, known, load))
        tables[load] = Table(found[0].selection.pack, tuple(thresholds(found)))
        for bucket in found:
            selections.setdefault(bucket.selection.variant, bucket.selection)
    own = any(selection.source == "database" for selection in selections.values())
    evidence = tuple(_evidence(rows, selections))
    return Choice(tables, selections, evidence, bool(rows), bool(rows) and not own)


def _picker(problem: Problem, target: Target, groups: Sequence[Group], load: str) -> Pick:
    """The answer by token count; all read the packed form of a layer's first answer."""

    def pick(count: int, pack: str | None) -> Selection:
        return select.choose(problem, Workload(count, load), target, groups, pack).selection()

    pack = pick(1, None).pack
    return lambda count: pick(count, pack)


def thresholds(found: Sequence[Bucket]) -> Iterator[TableRule]:
    """The buckets of a layer as rules; neighbours with one variant are one."""
    for bucket, following in itertools.pairwise(found):
        if bucket.selection.variant != following.selection.variant:
            yield TableRule(following.first - 1, bucket.selection.variant)
    yield TableRule(None, found[-1].selection.variant)


def _rows(groups: Iterable[Group], target: Target) -> list[Row]:
    """The winners of this architecture, whatever the machine: the user's own, then those that ship."""
    of_arch = [group for group in groups if group.target.arch == target.arch]
    of_arch.sort(key=lambda group: group.shipped)
    return [
        row
        for _, part in itertools.groupby(of_arch, lambda group: group.shipped)
        for row in sorted((row for group in part for row in group.rows), key=_order)
    ]


def _order(row: Row) -> tuple[str, str, int]:
    return row["target_id"], row["load"], row["tokens"]


def _evidence(rows: Iterable[Row], selections: dict[str, Selection]) -> Iterator[Evidence]:
    """What was measured of the variants that are kept."""
    for row in rows:
        if row["variant"] in selections:
            kept = {name: row[name] for name in EVIDENCE}
            yield Evidence(row["tokens"], row["load"], row["variant"], kept)
