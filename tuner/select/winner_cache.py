"""The winners of a problem, kept in memory until somebody writes to the database.

A layer asks at every call, so an answer must not cost a query: SQLite is asked only whether the
file has changed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.problem import Problem
from tuner.store import shipped
from tuner.store.database import Database
from tuner.target import Target

Row = Mapping[str, Any]

# Problems whose winners are kept: a service may be asked for thousands.
MOST_PROBLEMS = 128


@dataclass(frozen=True)
class Group:
    """Winners that differ in token count alone: rows of the view ``best``, by rising count.

    ``shipped`` tells those that moetune brings from the user's own.
    """

    target: Target
    load: str
    pack: str
    compiler: str
    template: str
    template_digest: str
    parameters: frozenset[str]
    tokens: tuple[int, ...]
    rows: tuple[Row, ...]
    shipped: bool = False


class _Reader:
    """An open database and the groups that were read from it."""

    def __init__(self, path: Path, file: tuple[int, int]) -> None:
        self.file = file
        self._db = Database(path, read_only=True)
        self._version = self._db.data_version()
        self._groups: dict[str, tuple[Group, ...]] = {}

    def groups(self, problem: Problem) -> tuple[Group, ...]:
        version = self._db.data_version()
        if version != self._version:
            self._groups, self._version = {}, version
        if problem.digest not in self._groups:
            if len(self._groups) == MOST_PROBLEMS:
                del self._groups[next(iter(self._groups))]  # the one that was read first
            self._groups[problem.digest] = grouped(self._db.best(problem_id=problem.digest))
        return self._groups[problem.digest]

    def close(self) -> None:
        self._db.close()


# By process too: SQLite forbids the use of a connection on both sides of a fork.
_readers: dict[tuple[int, Path], _Reader] = {}
_lock = threading.Lock()


def _free_in_child() -> None:
    """A thread that holds the lock is not forked, and would never free it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_free_in_child)


def winners(path: Path, problem: Problem) -> tuple[Group, ...]:
    """The groups of ``problem`` in the database at ``path``; none where there is no file.

    Raises:
        DatabaseError: the file is damaged, or from another version of moetune.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except PermissionError:  # the database says it better
        return _Reader(path, (0, 0)).groups(problem)
    if status.st_size == 0:
        return ()
    with _lock:
        return _reader(path, (status.st_dev, status.st_ino)).groups(problem)


def shipped_winners(problem: Problem) -> tuple[Group, ...]:
    """The groups of ``problem`` that moetune brings; none where ``MOETUNE_SHIPPED`` is 0.

    Raises DatabaseError where the installation lacks them.
    """
    return _shipped(problem) if shipped.are_used() else ()


@functools.lru_cache(maxsize=MOST_PROBLEMS)
def _shipped(problem: Problem) -> tuple[Group, ...]:
    groups = grouped(shipped.winners(problem))
    return tuple(dataclasses.replace(group, shipped=True) for group in groups)


def _reader(path: Path, file: tuple[int, int]) -> _Reader:
    """The reader of this path, a new one if another file lies there now."""
    place = (os.getpid(), path)
    reader = _readers.get(place)
    if reader is None or reader.file != file:
        if reader is not None:
            reader.close()
        reader = _readers[place] = _Reader(path, file)
    return reader


def target_of(row: Row) -> Target:
    """The target of a row of the view ``best``."""
    return Target.from_key({**row["target"], "name": row["target_name"]})


def grouped(
    rows: Iterable[Row], target_of: Callable[[Row], Target] = target_of
) -> tuple[Group, ...]:
    """Group rows that come sorted by target, load and tokens."""
    parts: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        made = row["environment"]
        compiler, digest = str(made.get("toolchain", "")), str(made.get("template", ""))
        names = frozenset(row["config"])
        key = (row["target_id"], row["load"], row["pack"], compiler, row["template"], digest, names)
        parts.setdefault(key, []).append(row)
    return tuple(
        Group(
            target=target_of(part[0]),
            load=load,
            pack=pack,
            compiler=compiler,
            template=template,
            template_digest=digest,
            parameters=names,
            tokens=tuple(row["tokens"] for row in part),
            rows=tuple(part),
        )
        for (_, load, pack, compiler, template, digest, names), part in parts.items()
    )
