"""Merge: winners from other machines, taken only where they are better founded than what is there.

Import trusts its file and lets the later row win. Here nothing is trusted: a line is checked against the
templates that are installed, and its row has to stand above the one that is there:

1. a winner of the template as it is here stands above one of an earlier or later template;
2. then a proven one (the default won, or the whole interval of the ratio lies below 1; with samples
   behind it) above one that is not;
3. two that are proven are compared by their times, weights as cold in both: the new one has to be
   surely faster, its interval below the other's;
4. of two that are not proven the later one stays.

Merging the same text again changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tuner.errors import DatabaseError, MergeError, MoetuneError, TemplateError
from tuner.space import templates
from tuner.space.space import is_current
from tuner.space.variant import make
from tuner.store.database import Database
from tuner.store.jsonl import Line, best_there, check_new, rebuild, record


class LineOutcome(StrEnum):
    """What became of a line."""

    TAKEN = "taken"
    SAME = "same"
    KEPT = "kept"


@dataclass(frozen=True)
class Merged:
    """One line: its workload, what became of it, and why."""

    line: int
    problem_id: str
    target_id: str
    tokens: int
    load: str
    outcome: LineOutcome
    reason: str


def merge(db: Database, text: bytes, where: str) -> list[Merged]:
    """Merge the winners in JSON lines, all of them or, where a line is bad, none.

    ``where`` names their source in errors.

    Raises:
        MergeError: a line is bad; names its number.
        DatabaseError: the database cannot be written.
    """
    with db.transaction():
        return _merged(db, text, where)


def _merged(db: Database, text: bytes, where: str) -> list[Merged]:
    found: list[Merged] = []
    seen: dict[object, int] = {}
    for number, line in enumerate(text.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            read = _read(db, line)
            check_new(seen, read.winner, number)
            outcome, reason = _judge(best_there(db, read.winner), read)
            if outcome is LineOutcome.TAKEN:
                record(db, read)
        except (MoetuneError, ValueError, OverflowError, RecursionError) as error:
            message = f"{where}: line {number}: {error}; nothing was taken, mend or drop the line"
            raise MergeError(message) from error
        cell = {name: read.winner[name] for name in ("problem_id", "target_id", "tokens", "load")}
        found.append(Merged(line=number, **cell, outcome=outcome, reason=reason))
    return found


def _read(db: Database, text: bytes) -> Line:
    """A line that is sound: rebuilt, and true to the installed templates."""
    line = rebuild(db, text, relabel=False)
    for variant in line.variants:
        _check_variant(variant)
    return line


def _check_variant(variant: Mapping[str, Any]) -> None:
    """Refuse a variant whose name, id or packed form do not follow from its configuration here."""
    if variant["template"] not in templates.names():
        raise TemplateError(
            f"template {variant['template']!r}: not installed here; upgrade moetune where this runs"
        )
    made = make(variant["template"], variant["config"])
    for field in ("name", "id", "pack"):
        if variant[field] != getattr(made, field):
            raise DatabaseError(
                f"variant.{field}: is {variant[field]!r}, but its configuration makes "
                f"{getattr(made, field)!r}"
            )


def _judge(there: Mapping[str, Any] | None, line: Line) -> tuple[LineOutcome, str]:
    """What becomes of a line beside the row of ``best`` for its workload, and why."""
    if there is None:
        return LineOutcome.TAKEN, "nothing was there"
    if _is_same(there, line):
        return LineOutcome.SAME, "it is there already"
    new, old = _standing_of_line(line), _standing_of_row(there)
    if new != old:
        return (
            (LineOutcome.TAKEN, _above(new, old))
            if new > old
            else (LineOutcome.KEPT, _above(old, new))
        )
    if not new.proven:
        later = line.winner["created"] > there["created"]
        return (
            LineOutcome.TAKEN if later else LineOutcome.KEPT
        ), "neither is proven: the later one stays"
    measured = line.tried[1]
    assert measured is not None  # it is proven
    if measured.temperature != there["temperature"]:
        return LineOutcome.KEPT, f"what is there was measured {there['temperature']}, this is not"
    times = f"{measured.median_ns:.0f} ns against {there['median_ns']:.0f} ns"
    if measured.high_ns < there["low_ns"]:
        return LineOutcome.TAKEN, f"surely faster: {times}"
    return LineOutcome.KEPT, f"not surely faster than what is there: {times}"


@dataclass(frozen=True, order=True)
class _Standing:
    current: bool
    proven: bool


def _standing_of_line(line: Line) -> _Standing:
    trial, measured = line.tried
    return _standing(trial.template, trial.environment, line.winner, measured)


def _standing_of_row(row: Mapping[str, Any]) -> _Standing:
    return _standing(row["template"], row["environment"], row, row["low_ns"])


def _standing(
    name: str, environment: Mapping[str, Any], winner: Mapping[str, Any], measured: object
) -> _Standing:
    current = is_current(name, environment.get("template", ""))
    proven = measured is not None and (winner["is_default"] or winner["ratio_high"] < 1)
    return _Standing(current, bool(proven))


def _above(upper: _Standing, lower: _Standing) -> str:
    if upper.current != lower.current:
        return "of the template as it is here, the other is not"
    return "proven in the finals, the other is not"


def _is_same(there: Mapping[str, Any], line: Line) -> bool:
    trial, winner = line.tried[0], line.winner
    names = ("created", "ratio", "ratio_low", "ratio_high", "median_ns", "is_default")
    same_winner = all(there[name] == winner[name] for name in names)
    return same_winner and there["variant_id"] == trial.variant_id


def counts(found: Sequence[Merged]) -> dict[str, int]:
    """How many lines ended how."""
    return {
        outcome.value: sum(line.outcome is outcome for line in found) for outcome in LineOutcome
    }
