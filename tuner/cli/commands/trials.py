"""``moetune trials`` and ``moetune history``: what was tried of a model, and its winners' times by date."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tuner.cli import rows, screen
from tuner.cli.options import Model, db_option, model_options
from tuner.errors import UsageError
from tuner.report import words
from tuner.report.history import Change, Occasion
from tuner.report.history import change as last_change
from tuner.report.sides import machines, winners_over_time
from tuner.space.variant import changes
from tuner.store.database import Database
from tuner.store.reading import reading
from tuner.store.records import STATUSES
from tuner.target import detect

_TRIALS = (
    "workload", "> trial", "date", "status", "measured", "> time", "> speed / default's", "differs in",
)  # fmt: skip
_HISTORY = (
    "date", "measured", "> time", "95 % interval", "> speed / default's", "> winner", "compiler",
)  # fmt: skip
_KINDS = {"trial": "search", "final": "finals", "audit": "audit"}
_HOST = "host"

_machine = click.option(
    "--machine", metavar="NAME", help="Of this machine alone: host, an architecture, a GPU, or a target's id.",
)  # fmt: skip
_load = click.option("--load", help="Of this load alone.")


@click.command()
@model_options
@click.option("--tokens", type=click.IntRange(min=0), help="Of this token count alone.")
@_load
@_machine
@click.option("--status", type=click.Choice(STATUSES), help="Of this outcome alone.")
@rows.form_options
@db_option
def trials(
    model: Model,
    tokens: int | None,
    load: str | None,
    machine: str | None,
    status: str | None,
    form: str,
    db: Path | None,
) -> None:
    """List the trials of a model, the oldest first.

    CSV and JSON have all columns, one row a trial; `tuner.Database().trial_rows()` gives the same to Python.
    """
    with reading(db) as database:
        found = database.trial_rows(model.problem, None, tokens, load, status)
        if machine:
            ids = _ids(database, machine)
            found = [row for row in found if row["target_id"] in ids]
        where = database.path
    if not found:
        raise UsageError(
            f"{_name(model)}: {where} has no such trial; `moetune list` says what it has"
        )
    rows.show(form, found, _TRIALS, _lines(found), titled=True)


def _ids(database: Database, machine: str) -> list[str]:
    return [detect().digest] if machine == _HOST else machines(database, machine)


def _name(model: Model) -> str:
    return model.problem.name or model.problem.digest


def _lines(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What people read of trials; a variant by what it changes of its cell's first, which is the default."""
    first: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    lines: list[tuple[str, ...]] = []
    for row in found:
        cell = (row["target_id"], row["load"], row["tokens"], row["template"])
        default = first.setdefault(cell, row)
        ratio = (row["ratio"], row["ratio_low"], row["ratio_high"])
        lines.append((
            f"{row['arch']}: {words.counted(row['tokens'], 'token')}, {row['load']}", str(row["id"]),
            rows.moment(row["created"]), row["status"], _KINDS.get(row["kind"], ""), _time(row["median_ns"]),
            words.times(*words.speed_up(*ratio)) if None not in ratio else "",
            words.changed(changes(_config(default), _config(row))),
        ))  # fmt: skip
    return lines


def _config(row: Mapping[str, Any]) -> dict[str, int]:
    prefix = "config."
    return {n.removeprefix(prefix): v for n, v in row.items() if n.startswith(prefix)}


def _time(ns: float | None) -> str:
    return "" if ns is None else words.duration(ns)


@click.command()
@model_options
@click.option("--tokens", type=click.IntRange(min=0), required=True, help="Tokens of one call.")
@click.option("--load", default="uniform", show_default=True, help="Load over the experts.")
@click.option("--machine", metavar="NAME", default=_HOST, show_default=True,
              help="host, an architecture, a GPU, or a target's id.")  # fmt: skip
@rows.form_options
@db_option
def history(model: Model, tokens: int, load: str, machine: str, form: str, db: Path | None) -> None:
    """Show how fast a model's winner was at each date.

    A row for each finals and each audit; the last line says whether the winner became slower. `moetune audit`
    adds a row of today.
    """
    with reading(db) as database:
        ids = _ids(database, machine)
        found = winners_over_time(database, model.problem, ids, tokens, load)
        where = database.path
    if not found:
        raise UsageError(
            f"{_name(model)}: {where} has no measured winner of {tokens} tokens, load {load}, on {machine}; "
            "`moetune list` says what it has"
        )
    told = [{**dataclasses.asdict(one), "target_id": id} for id, one in found]
    names = list(dict.fromkeys(one.variant for _, one in found))
    rows.show(form, told, _HISTORY, [_occasion(one, names) for _, one in found])
    if form == "table":
        for number, name in enumerate(names, 1):
            screen.echo(f"winner {number}: {name}")
    if form == "table" and (last := last_change([one for _, one in found])):
        screen.echo(_changed(last))


def _occasion(one: Occasion, names: Sequence[str]) -> tuple[str, ...]:
    return (
        rows.moment(one.created),
        _KINDS[one.kind],
        words.duration(one.median_ns),
        f"[{words.duration(one.low_ns)}, {words.duration(one.high_ns)}]",
        "" if one.ratio is None else f"{words.inverse(one.ratio):.2f}x",
        str(1 + names.index(one.variant)),
        one.toolchain.partition(" (")[0],
    )


def _changed(last: Change) -> str:
    """Whether the last time is another one than that of the occasion before."""
    since = f"since {last.before.created}"
    if not last.told_apart:
        return f"no difference {since}: the two intervals overlap"
    slower = last.ratio > 1
    factor = last.ratio if slower else words.inverse(last.ratio)
    return f"{factor:.2f} times {'slower' if slower else 'faster'} {since}: the intervals lie apart"
