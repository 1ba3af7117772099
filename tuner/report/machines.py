"""Machines: the winners of one layer on every machine, side by side.

The layer may have been tuned in several data types: each is a column of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.problem import Problem
from tuner.report import shipped_copy
from tuner.store import listings
from tuner.store.database import Database
from tuner.target import Target

# Fields of a problem's key in which columns may differ.
_TYPES = ("dtype", "weight_dtype", "down_dtype", "accum_dtype")


@dataclass(frozen=True)
class Machine:
    """A column: a target, and the layer in the type that was tuned there."""

    target: Target
    problem: Problem

    @property
    def label(self) -> str:
        """A machine as people call it: a GPU by its name, a CPU with its cores."""
        name = self.target.name or self.target.arch
        if self.target.kind == "gpu":
            return name
        return f"{name} ({self.target.arch}, {self.target.cores} cores)"


@dataclass(frozen=True)
class MachineTime:
    """A winner's time.

    Attributes:
        over_fastest: its time over that of the fastest machine of the row.
        fastest: it is the fastest of several, and its interval lies below those of all others.
        shipped: it travels with the package; it was not measured by who asks.
    """

    median_ns: float
    low_ns: float
    high_ns: float
    temperature: str
    created: str
    over_fastest: float
    fastest: bool
    shipped: bool


@dataclass(frozen=True)
class MachineRow:
    """One workload: a time for each machine, None where it was not tuned there."""

    tokens: int
    load: str
    times: tuple[MachineTime | None, ...]


@dataclass(frozen=True)
class SideBySide:
    """The machines, and a row for each workload that one of them was tuned for, by load and tokens."""

    machines: tuple[Machine, ...]
    rows: tuple[MachineRow, ...]

    @property
    def shared(self) -> tuple[MachineRow, ...]:
        """The rows that several machines have."""
        return tuple(row for row in self.rows if sum(time is not None for time in row.times) > 1)


def side_by_side(db: Database, problem: Problem) -> SideBySide:
    """Every winner of a layer in any data type: those of the database, and below them those that ship."""
    own = _rows(db, problem, shipped=False)
    other = shipped_copy.database()
    known = {_key(row) for row in own}
    brought = _rows(other, problem, shipped=True) if other else []
    rows = own + [row for row in brought if _key(row) not in known]
    columns: dict[tuple[str, str], Machine] = {}
    for row in rows:
        columns.setdefault(_column(row), _machine(row))
    places = sorted({(row["load"], row["tokens"]) for row in rows})
    found = {_key(row): row for row in rows}
    return SideBySide(
        tuple(columns.values()),
        tuple(
            MachineRow(tokens, load, _times([found.get((key, load, tokens)) for key in columns]))
            for load, tokens in places
        ),
    )


def _rows(db: Database, problem: Problem, shipped: bool) -> list[dict[str, Any]]:
    family = _family(db, problem)
    return [row | {"shipped": shipped} for layer in family for row in db.best(layer)]


def _key(row: Mapping[str, Any]) -> tuple[tuple[str, str], str, int]:
    return _column(row), row["load"], row["tokens"]


def _family(db: Database, problem: Problem) -> list[str]:
    """The ids of the problems that are this layer, the one in its own type first."""
    wanted = _without_types(problem.key)
    ids = [row["id"] for row in listings.won_layers(db) if _without_types(row["problem"]) == wanted]
    return sorted(ids, key=lambda id: id != problem.digest)


def _without_types(key: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in _TYPES}


def _column(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["problem_id"], row["target_id"]


def _machine(row: Mapping[str, Any]) -> Machine:
    target = Target.from_key({**row["target"], "name": row["target_name"]})
    return Machine(target, Problem.from_key(row["problem"], name=row["problem_name"]))


def _times(rows: list[dict[str, Any] | None]) -> tuple[MachineTime | None, ...]:
    there = [row for row in rows if row]
    return tuple(_time(row, there) if row else None for row in rows)


def _time(row: Mapping[str, Any], there: list[dict[str, Any]]) -> MachineTime:
    others = [other for other in there if other is not row]
    low, high = _interval(row)
    return MachineTime(
        median_ns=row["median_ns"],
        low_ns=low,
        high_ns=high,
        temperature=row["temperature"] or "",
        created=row["created"],
        over_fastest=row["median_ns"] / min(other["median_ns"] for other in there),
        shipped=row["shipped"],
        fastest=bool(others) and all(high < _interval(other)[0] for other in others),
    )


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    median = row["median_ns"]
    return row["low_ns"] or median, row["high_ns"] or median
