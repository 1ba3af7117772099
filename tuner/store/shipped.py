"""Shipped: the winners that travel with the package, which serve whoever has tuned nothing of the kind yet.

The file is the repository's db/best.jsonl, what `moetune export` wrote. It is ours, and a test holds it to what
`import` would make of it, so its lines become rows without a database: a layer that is loaded waits for them.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.errors import DatabaseError
from tuner.problem import Problem
from tuner.store import former
from tuner.target import Target

# 0: the winners that ship are left out.
VARIABLE = "MOETUNE_SHIPPED"
_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "db" / "best.jsonl", _PACKAGE.parent / "db" / "best.jsonl")
# Columns of the view `best`, by the part of a line that has them.
_OF_WINNER = (
    "is_default", "ratio", "ratio_low", "ratio_high", "median_ns", "gflop_s", "gb_s", "ceiling_fraction",
    "created",
)  # fmt: skip
_OF_MEASUREMENT = (
    "temperature", "low_ns", "high_ns", "p95_ns", "p99_ns", "sample_count", "ceiling",
)  # fmt: skip
_OF_TRIAL = ("status", "source_digest", "binary_key", "environment")
# What a text does not say: the numbers of trials are those of one database.
_UNKNOWN = ("trial_id", "default_trial_id", "regret", "foreign_share")

Row = dict[str, Any]


def path() -> Path:
    """The winners that travel with the package. Raises DatabaseError where they are lacking."""
    for place in _PLACES:
        if place.is_file():
            return place
    raise DatabaseError(f"db/best.jsonl: not found in {_PACKAGE}; install moetune again")


def are_used() -> bool:
    """Whether they serve: they do unless ``MOETUNE_SHIPPED`` is 0."""
    return os.environ.get(VARIABLE) != "0"


def winners(problem: Problem | None = None) -> tuple[Row, ...]:
    """The winners of a problem, or all, as rows of the view ``best``; none where they are not used.

    Raises DatabaseError where the installation lacks them or they are damaged.
    """
    if not are_used():
        return ()
    found = _by_problem(path())
    if problem is not None:
        return found.get(problem.digest, ())
    return tuple(row for rows in found.values() for row in rows)


@functools.cache
def _by_problem(file: Path) -> Mapping[str, tuple[Row, ...]]:
    """Digest of each problem -> its rows."""
    found: dict[str, list[Row]] = {}
    try:
        for row in map(_row, map(json.loads, file.read_bytes().splitlines())):
            found.setdefault(row["problem_id"], []).append(row)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatabaseError(f"{file}: cannot be read ({error}); install moetune again") from error
    return {digest: tuple(rows) for digest, rows in found.items()}


def _row(line: Mapping[str, Any]) -> Row:
    problem, target, tried = line["problem"], line["target"], line["tried"]
    variant = former.meant(tried["variant"], target["key"]["cores"])
    return {
        "problem_id": _problem_id(json.dumps(problem["key"])),
        "problem_name": problem["name"],
        "problem": problem["key"],
        "target_id": _target_id(json.dumps(target["key"])),
        "arch": target["key"]["arch"],
        "target_name": target["name"],
        "target": target["key"],
        "tokens": line["tokens"],
        "load": line["load"],
        "variant_id": variant["id"],
        "variant": variant["name"],
        **{name: variant[name] for name in ("template", "config", "pack")},
        **{name: line["winner"][name] for name in _OF_WINNER},
        **{name: (tried["measurement"] or {}).get(name) for name in _OF_MEASUREMENT},
        **{name: tried["trial"][name] for name in _OF_TRIAL},
        **dict.fromkeys(_UNKNOWN),
    }


@functools.cache
def _problem_id(key: str) -> str:
    """Many lines are of one problem, and of one target; a key of before is as it is meant now."""
    return Problem.from_key(json.loads(key)).digest


@functools.cache
def _target_id(key: str) -> str:
    return Target.from_key(json.loads(key)).digest
