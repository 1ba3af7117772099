"""Shipped copy: the winners that travel with the package, as a database that pages read like any other."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import NamedTuple

from tuner.store import listings, shipped
from tuner.store.database import Database
from tuner.store.jsonl import import_best


class _Copy(NamedTuple):
    """The folder goes with the process."""

    folder: tempfile.TemporaryDirectory[str]
    database: Database


def database() -> Database | None:
    """The winners that ship; None where they are not used (``MOETUNE_SHIPPED``).

    Raises DatabaseError where the installation lacks them, or there is no place for the copy.
    """
    return _copy(shipped.path()).database if shipped.are_used() else None


def holding(db: Database, problem_id: str, target_id: str) -> Database:
    """The database that knows a problem on a target: this one, else the shipped copy, else this one."""
    ids = (problem_id, target_id)
    other = database()
    return other if other and not listings.tried(db, *ids) and listings.tried(other, *ids) else db


@functools.cache
def _copy(file: Path) -> _Copy:
    folder = tempfile.TemporaryDirectory(prefix="moetune-")
    made = Database(Path(folder.name) / "shipped.sqlite3")
    import_best(made, file)
    return _Copy(folder, made)
