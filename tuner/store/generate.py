"""Generate: the rendered source of every winner, as files that are checked in and reviewed.

A pure function of the winners: ``FOLDER/TEMPLATE/PROBLEM/VARIANT.mojo``. One file serves all
token counts and machines that a variant won for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.codegen.render import render, write_if_changed
from tuner.errors import MoetuneError, UsageError
from tuner.problem import Problem
from tuner.space.variant import make
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.reading import temporary

Row = Mapping[str, Any]


@dataclass(frozen=True)
class State:
    """How a folder differs from what it should hold: paths inside it, sorted."""

    missing: tuple[str, ...]
    stale: tuple[str, ...]
    extra: tuple[str, ...]

    @property
    def fresh(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.stale or self.extra)


def winners_of_text(path: Path) -> list[dict[str, Any]]:
    """The winners of a best.jsonl, as rows of the view ``best``; DatabaseError for a bad line."""
    with temporary() as database:
        import_best(database, path)
        return database.best()


def winners_of_database(path: Path) -> list[dict[str, Any]]:
    """The winners of a database. Raises DatabaseError where it is not there or damaged."""
    with Database(path, read_only=True) as database:
        return database.best()


def sources(rows: Sequence[Row]) -> dict[str, str]:
    """Path in the folder -> text, for every winner.

    Raises:
        MoetuneError: a winner is of a template or of parameters that are no longer there.
    """
    folders = _folders(rows)
    made = {}
    for row in rows:
        problem = Problem.from_key(row["problem"], name=row["problem_name"])
        try:
            variant = make(row["template"], row["config"])
            text = render(problem, variant).text
        except MoetuneError as error:
            place = f"winner of {row['problem_name'] or problem.digest} at {row['tokens']} tokens"
            raise type(error)(f"{place}: {error}; tune it again and export") from error
        made[f"{variant.template}/{folders[problem.digest]}/{variant.name}.mojo"] = text
    return made


def _folders(rows: Iterable[Row]) -> dict[str, str]:
    """Digest of each problem -> its folder: its name, with the digest where two share the name."""
    names = {row["problem_id"]: _plain(row["problem_name"]) for row in rows}
    shared = [name for name in names.values() if name]
    return {
        digest: f"{name}-{digest}" if shared.count(name) > 1 else name or digest
        for digest, name in names.items()
    }


def _plain(name: str) -> str:
    """A label as a folder's name: labels are free text, and may come from a file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")


def compare(expected: Mapping[str, str], folder: Path) -> State:
    """How ``folder`` differs from ``expected``; only its .mojo files count."""
    there = {str(path.relative_to(folder)): path for path in folder.rglob("*.mojo")}
    stale = (n for n in expected if n in there and there[n].read_bytes() != expected[n].encode())
    return State(
        missing=tuple(sorted(expected.keys() - there.keys())),
        stale=tuple(sorted(stale)),
        extra=tuple(sorted(there.keys() - expected.keys())),
    )


def write(expected: Mapping[str, str], folder: Path) -> int:
    """Write what differs and return how many files that were.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        return sum(write_if_changed(folder / name, text) for name, text in expected.items())
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}); name another one with --out"
        ) from error
