"""``moetune validate``: the claims that a simulation made, measured here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner import doctor
from tuner.cli import screen
from tuner.cli.options import db_option, json_option
from tuner.store.reading import reading
from tuner.target import detect

if TYPE_CHECKING:
    from tuner.peers.validate import ClaimRow

_COLUMNS = ("claim", "> claimed", "> measured here", "unit", "holds")
_WORDS = {True: "yes", False: "no", None: "not measured"}


@click.command()
@db_option
@json_option
def validate(db: Path | None, as_json: bool) -> None:
    """Measure what was once claimed from a simulation, in about five minutes.

    A claim that does not hold is said not to hold. Rows of accelerators in the database stand beside it.
    """
    from tuner.peers import validate as stage  # peers bring more than the other commands need

    doctor.require_toolchain()
    target = detect()
    with reading(db) as database:
        stored = stage.stored_elsewhere(database)
        found = stage.rows(stage.measure(target, database, screen.stderr().print), stored)
    if as_json:
        told = {"target": target.key, "rows": [dataclasses.asdict(row) for row in found]}
        screen.echo(json.dumps(told, indent=2, allow_nan=False))
        return
    out = screen.stdout()
    out.print(target.describe())
    out.print(screen.table(_COLUMNS, [_row(row) for row in found]))
    for row in found:
        out.print(f"{row.claim}: {row.measured.how}", soft_wrap=True)
        if row.stored:
            out.print(f"  stored: {row.stored}", soft_wrap=True)
    counts = ", ".join(f"{count} {word}" for word, count in stage.count(found).items() if count)
    out.print(f"{len(found)} claims: {counts}")


def _row(row: ClaimRow) -> tuple[str, ...]:
    measured = row.measured
    figure = "" if measured.value is None else _figure(measured.value)
    if measured.value is not None and measured.low != measured.high:
        figure += f" [{_figure(measured.low)}, {_figure(measured.high)}]"
    return (row.claim, row.claimed, figure, row.unit, _WORDS[row.holds])


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
