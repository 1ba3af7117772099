"""Reading: a database for those that only read it, and so never make a file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tuner.store.database import Database, path_to_read


@contextlib.contextmanager
def reading(db: Path | None) -> Iterator[Database]:
    """The database that is named, which has to be there, else the default; an empty one where that is not yet.

    Raises DatabaseError as `Database` does.
    """
    with _or_empty(path_to_read(db)) as database:
        yield database


@contextlib.contextmanager
def history(path: Path) -> Iterator[Database]:
    """What is known at a path before a session makes the database there; an empty one where there is none."""
    with _or_empty(path) as database:
        yield database


def _or_empty(path: Path) -> contextlib.AbstractContextManager[Database]:
    return Database(path, read_only=True) if path.exists() else _empty(path)


@contextlib.contextmanager
def _empty(path: Path) -> Iterator[Database]:
    with temporary() as database:
        database.path = path  # what errors name
        yield database


@contextlib.contextmanager
def temporary() -> Iterator[Database]:
    """A database for as long as it is looked into."""
    with (
        tempfile.TemporaryDirectory(prefix="moetune-") as folder,
        Database(Path(folder) / "temporary.sqlite3") as database,
    ):
        yield database
