"""Index: what ``/v1/best`` needs of the database, in memory: problems and targets by name, winners by problem.

After a write, the rows of a problem that is asked for are read once more and compared with what they were: only
where they differ they are looked into again.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.problem import Problem
from tuner.select.winner_cache import Group, Row, grouped, shipped_winners, target_of
from tuner.serve import asked
from tuner.serve.store import Store, Version
from tuner.serve.stored_row import JSON_COLUMNS, StoredRow, encode
from tuner.store import listings
from tuner.target import Target

# Rows to keep, some 2 KB each, and names; of the rows those go that nobody asked for the longest time.
MOST_ROWS = 150_000
MOST_NAMES = 10_000
# Columns that hold the same in many rows of a problem.
_REPEATED = (
    "problem_id", "problem_name", "problem", "target_id", "arch", "target_name", "target", "load",
    "variant_id", "template", "variant", "config", "pack", "temperature", "ceiling", "status",
)  # fmt: skip


@dataclass
class _Known:
    """The winners of a problem: as of which version, a hash of what is stored of them, how many."""

    version: Version
    stamp: int
    groups: tuple[Group, ...]
    rows: int


class Index:
    """Problems, targets and winners of a store, always as they are now.

    ``rows`` says how many winners are kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._named_at: Version = ()
        self._problems: dict[tuple[str, str | None], Problem] = {}
        self._by_id: dict[str, Problem] = {}
        self._targets: dict[str, Target] = {}
        self._machines: dict[tuple[str, str], Target] = {}
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self.rows = 0

    def problem(self, version: Version, model: str, dtype: str | None) -> Problem:
        """What a query's ``model`` means. Raises Refusal as ``tuner.serve.asked`` does."""
        with self._lock:
            self._forget_names(version)
            if dtype is None and model in self._by_id:
                return self._by_id[model]
            if (model, dtype) not in self._problems:
                found = self._store.quick(lambda db: asked.problem_of(db, model, dtype))
                self._problems[model, dtype] = found
                if found.digest == model:
                    self._by_id[model] = found
            return self._problems[model, dtype]

    def target(self, version: Version, text: str) -> Target:
        """What a query's ``target`` means. Raises Refusal as ``tuner.serve.asked`` does."""
        with self._lock:
            self._forget_names(version)
            if text not in self._targets:
                self._targets[text] = self._store.quick(lambda db: asked.target_for(db, text))
            return self._targets[text]

    def groups(self, version: Version, problem: Problem) -> tuple[Group, ...]:
        """The winners of a problem, those of the database and those that moetune brings."""
        with self._lock:
            known = self._known.get(problem.digest)
            if known is None or known.version != version:
                known = self._refreshed(version, problem.digest, known)
            self._known.move_to_end(problem.digest)
            return known.groups + (_brought(problem) if shipped_winners(problem) else ())

    def warm(self) -> None:
        """Read as many winners as are kept, so that the first questions need not wait."""
        version = self._store.version()
        with self._lock:
            self._forget_names(version)
            for row in self._store.quick(listings.won_layers):
                if self.rows >= MOST_ROWS:
                    return
                self._by_id[row["id"]] = Problem.from_key(row["problem"], name=row["name"])
                self._refreshed(version, row["id"], None)

    def _forget_names(self, version: Version) -> None:
        """What a label or an architecture stands for may change with a write; what an id does, never."""
        if version[:1] != self._named_at[:1] or len(self._by_id) > MOST_NAMES:
            self._by_id.clear()
        if version != self._named_at or len(self._problems) + len(self._targets) > MOST_NAMES:
            for names in (self._problems, self._targets, self._machines):
                names.clear()
            self._named_at = version

    def _refreshed(self, version: Version, digest: str, known: _Known | None) -> _Known:
        columns, rows = self._store.quick(lambda db: db.stored_best(digest))
        stamp = hash(tuple(rows))
        if known is not None and known.stamp == stamp:
            known.version = version
            return known
        groups = grouped(_stored(columns, rows), self._machine)  # fails where a row is damaged
        made = self._known[digest] = _Known(version, stamp, groups, len(rows))
        self.rows += len(rows) - (known.rows if known else 0)
        while self.rows > MOST_ROWS and len(self._known) > 1:
            _, oldest = self._known.popitem(last=False)
            self.rows -= oldest.rows
        return made

    def _machine(self, row: Row) -> Target:
        """One object for all winners of a machine: its digest is made once."""
        key = (row["target_id"], row["target_name"])
        if key not in self._machines:
            self._machines[key] = target_of(row)
        return self._machines[key]


def _stored(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Iterator[StoredRow]:
    """The rows, sharing the texts that they have in common."""
    places = _places(columns)
    repeated = [places[name] for name in _REPEATED]
    texts: dict[Any, Any] = {}
    for row in rows:
        values = list(row)
        for at in repeated:
            values[at] = texts.setdefault(values[at], values[at])
        yield StoredRow(places, tuple(values))


@functools.lru_cache(maxsize=1024)
def _brought(problem: Problem) -> tuple[Group, ...]:
    """The winners that moetune brings, with rows as those of the database."""
    return tuple(
        dataclasses.replace(group, rows=tuple(map(_as_stored, group.rows)))
        for group in shipped_winners(problem)
    )


def _as_stored(row: Row) -> StoredRow:
    values = (encode(v) if name in JSON_COLUMNS else v for name, v in row.items())
    return StoredRow(_places(tuple(row)), tuple(values))


@functools.cache
def _places(columns: tuple[str, ...]) -> dict[str, int]:
    return {name: place for place, name in enumerate(columns)}
