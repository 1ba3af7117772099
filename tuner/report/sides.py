"""Sides: what stands on one side of a comparison, as a command line names it.

A side is a source, a selector, or both as SOURCE@SELECTOR. A source is a database, a file of `moetune export`,
or `shipped` (the winners that moetune brings); the database that is meant where none is named. A selector is a
machine (an architecture, a GPU, or the id of a target), a date, or `version:X` or `compiler:X`.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report.history import Occasion, occasions
from tuner.store import listings, shipped
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.reading import reading, temporary
from tuner.store.records import TrialRow
from tuner.target import Target

SHIPPED = "shipped"
# What every SQLite file starts with.
SQLITE = b"SQLite format 3\0"
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T[\d:+]*)?")
# Word before the colon -> the part of a trial's environment that it selects by.
_MADE_WITH = {"version": "moetune", "compiler": "toolchain"}
_LEAST_OF_ID = 6

Fits = Callable[[TrialRow], bool]


@dataclass(frozen=True)
class Standing:
    """What a side knows of one workload on one machine: the time of its winner, with the 95 % interval."""

    problem_id: str
    problem: str
    tokens: int
    load: str
    target_id: str
    machine: str
    variant: str
    temperature: str
    median_ns: float
    low_ns: float
    high_ns: float
    created: str

    @property
    def cell(self) -> tuple[str, int, str]:
        """The workload, whatever the machine."""
        return self.problem_id, self.tokens, self.load


def standings(text: str, db: Path | None) -> list[Standing]:
    """The winners of a side. ``db`` is the database that is meant where the side names none.

    Raises:
        UsageError: there is no such machine, version or date, or nothing of this name at all.
        DatabaseError: a source is damaged, or not there.
    """
    source, selector = _split(text)
    with _opened(source, db) as database:
        found = list(_selected(database, selector))
    if not found:
        raise UsageError(f"{text}: holds no winner; `moetune list` says what a database holds")
    return found


def machines(db: Database, name: str) -> list[str]:
    """The ids of the targets in a database that a name means: an architecture, a GPU, or how an id begins.

    Raises UsageError where there is none; names those that there are.
    """
    rows = listings.targets(db, "", -1)
    names = {row["id"]: (row["arch"], row["target"]["accelerator"]) for row in rows}
    found = [id for id, known in names.items() if name in known or _begins(id, name)]
    if name and found:
        return found
    known = sorted({part for parts in names.values() for part in parts if part})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(
        f"{name!r}: is neither a file, a date nor a machine of {db.path}; {hint}"
        f"machines: {', '.join(known) or 'none'}"
    )


def winners_over_time(
    db: Database, problem: Problem, targets: Sequence[str], tokens: int, load: str
) -> list[tuple[str, Occasion]]:
    """When the winner of a workload was measured on these targets, and how fast it was; the oldest first."""
    found = []
    for id in targets:
        cell = {"problem_id": problem.digest, "target_id": id, "tokens": tokens, "load": load}
        found += [(id, one) for one in _occasions(db, cell, lambda _: True)]
    return sorted(found, key=lambda pair: pair[1].created)


def _begins(id: str, start: str) -> bool:
    return len(start) >= _LEAST_OF_ID and id.startswith(start)


def _split(text: str) -> tuple[str, str]:
    """The source and the selector of a side; empty where it has none."""
    if text == SHIPPED or Path(text).is_file():
        return text, ""
    source, at, selector = text.rpartition("@")
    return (source, selector) if at else ("", text)


@contextlib.contextmanager
def _opened(source: str, db: Path | None) -> Iterator[Database]:
    if not source:
        with reading(db) as database:
            yield database
        return
    path = shipped.path() if source == SHIPPED else Path(source)
    with _file(path) as database:
        yield database


def _file(path: Path) -> contextlib.AbstractContextManager[Database]:
    try:
        with path.open("rb") as file:
            is_database = file.read(len(SQLITE)) == SQLITE
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a file") from error
    return Database(path, read_only=True) if is_database else _imported(path)


@contextlib.contextmanager
def _imported(path: Path) -> Iterator[Database]:
    with temporary() as database:
        import_best(database, path)
        database.path = path  # what errors name
        yield database


def _selected(db: Database, selector: str) -> Iterator[Standing]:
    word, colon, value = selector.partition(":")
    if _DATE.fullmatch(selector):
        return _then(db, lambda one: one.created[: len(selector)] <= selector)
    if colon and word in _MADE_WITH:
        name = _MADE_WITH[word]
        return _then(db, lambda _: True, lambda row: value in str(row.environment.get(name, "")))
    return _now(db, machines(db, selector) if selector else None)


def _now(db: Database, targets: Sequence[str] | None) -> Iterator[Standing]:
    """The winners of now; those that were imported without a measurement have no interval, and are left out."""
    for row in db.best():
        if (targets is None or row["target_id"] in targets) and row["low_ns"] is not None:
            yield Standing(
                temperature=row["temperature"],
                **{n: row[n] for n in ("variant", "median_ns", "low_ns", "high_ns", "created")},
                **_place(row),
            )


def _then(
    db: Database, in_time: Callable[[Occasion], bool], fits: Fits = lambda _: True
) -> Iterator[Standing]:
    """Of each workload the last finals or audit that is in time, of the trials that fit."""
    for cell in db.workloads():
        found = [one for one in _occasions(db, cell, fits) if in_time(one)]
        if found:
            last = found[-1]
            yield Standing(
                variant=last.variant,
                temperature=last.temperature,
                median_ns=last.median_ns,
                low_ns=last.low_ns,
                high_ns=last.high_ns,
                created=last.created,
                **_place(cell),
            )


def _occasions(db: Database, cell: Mapping[str, Any], fits: Fits) -> tuple[Occasion, ...]:
    ids = (cell["problem_id"], cell["target_id"])
    trials = filter(fits, db.trials(*ids, cell["tokens"], cell["load"]))
    workload = Workload(cell["tokens"], cell["load"])
    stored = {
        row["trial_id"]: row["ratio"] for row in db.best(*ids, workload.tokens, workload.load)
    }
    return occasions(list(trials), db.sessions(*ids), workload, stored)


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    machine = Target.from_key({**row["target"], "name": row["target_name"]})
    return {
        "problem_id": row["problem_id"],
        "problem": row["problem_name"] or row["problem_id"],
        "tokens": row["tokens"],
        "load": row["load"],
        "target_id": row["target_id"],
        "machine": machine.label,
    }
