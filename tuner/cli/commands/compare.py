"""``moetune compare``: two databases, machines, dates or versions side by side."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tuner.cli import endings, rows, screen
from tuner.cli.options import db_option
from tuner.errors import UsageError
from tuner.report import words
from tuner.report.compare import Compared, ComparedVerdict
from tuner.report.compare import compare as side_by_side
from tuner.report.sides import Standing, standings

_COLUMNS = ("model", "> tokens", "load", "machines", "> A", "> B", "> B's speed / A's", "verdict")
_COMMON = ("problem", "problem_id", "tokens", "load")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--model", metavar="MODEL", help="Compare this model alone, by its name.")
@rows.form_options
@db_option
def compare(a: str, b: str, model: str | None, form: str, db: Path | None) -> int:
    """Compare two databases, machines, dates or versions, side by side.

    A and B are each a database, a file of `moetune export`, `shipped`, or something in the database: a
    machine (znver4, nvidia-h100), a date (2026-11-30: the last finals or audit until then), version:X or
    compiler:X. FILE@X is one of these in another database.

    Ends with 1 where B is slower than A in any row: the whole interval of the ratio lies below 1.
    """
    found = side_by_side(_wanted(a, db, model), _wanted(b, db, model))
    if not any(one.a and one.b for one in found):
        raise UsageError(
            f"{a} and {b}: have no workload in common; `moetune list` says what each holds"
        )
    lines = [_line(one.a, one.b, one) for one in found if one.a and one.b]
    rows.show(form, [_flat(one) for one in found], _COLUMNS, lines, titled=True)
    if form == "table":
        counts = Counter(one.verdict.value for one in found)
        screen.echo(f"B beside A: {', '.join(f'{n} {name}' for name, n in counts.items())}")
    slower = any(one.verdict is ComparedVerdict.SLOWER for one in found)
    return endings.SAID_NO if slower else 0


def _wanted(side: str, db: Path | None, model: str | None) -> list[Standing]:
    found = standings(side, db)
    if model is None:
        return found
    kept = [one for one in found if model in (one.problem, one.problem_id)]
    if not kept:
        known = ", ".join(dict.fromkeys(one.problem for one in found))
        raise UsageError(f"--model {model}: {side} has no winner of it; it has {known}")
    return kept


def _line(a: Standing, b: Standing, found: Compared) -> tuple[str, ...]:
    speed = ""
    if found.speed and found.speed_low and found.speed_high:
        speed = words.times(found.speed, found.speed_low, found.speed_high)
    return (
        a.problem,
        str(a.tokens),
        a.load,
        a.machine if a.machine == b.machine else f"{a.machine}, {b.machine}",
        words.duration(a.median_ns),
        words.duration(b.median_ns),
        speed,
        found.verdict.value,
    )


def _flat(one: Compared) -> dict[str, Any]:
    place = asdict(one.place)
    row: dict[str, Any] = {name: place[name] for name in _COMMON}
    for name, side in (("a", one.a), ("b", one.b)):
        told = asdict(side) if side else dict.fromkeys(place)
        row |= {f"{name}_{key}": value for key, value in told.items() if key not in _COMMON}
    names = ("speed", "speed_low", "speed_high")
    return {**row, **{n: getattr(one, n) for n in names}, "verdict": one.verdict.value}
