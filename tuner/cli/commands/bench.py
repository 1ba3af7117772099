"""``moetune bench``: the tuned layer and its peers side by side, in one interleaved run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner.cli import screen, traces
from tuner.cli.options import (
    Model,
    db_option,
    json_option,
    load_option,
    model_options,
    target_option,
    tokens_option,
)
from tuner.errors import DatabaseError
from tuner.peers.table import PEERS
from tuner.report import words
from tuner.store.database import Database
from tuner.store.reading import reading
from tuner.target import named, require_cpu

if TYPE_CHECKING:
    from tuner.peers.compare import PeerRow

_COLUMNS = (
    "> tokens",
    "match",
    "> ours",
    "peer",
    "> its time",
    "> we are faster",
    "> rate",
    "> of ceiling",
)


@click.command()
@model_options
@tokens_option
@click.option(
    "--against",
    metavar="NAME,...",
    help=f"Of {', '.join(PEERS)}; those that are installed unless given.",
)
@load_option
@target_option
@db_option
@json_option
def bench(
    model: Model,
    tokens: tuple[int, ...],
    against: str | None,
    load: str,
    target: str,
    db: Path | None,
    as_json: bool,
) -> None:
    """Time the layer against its peers.

    Their times are kept in the database, and shown on the pages of `moetune report` and `moetune serve`.
    """
    from tuner.peers import compare, recorded  # they bring more than the other commands need

    hardware = named(target)
    require_cpu(hardware, "`moetune bench`")
    load = traces.named(model.problem, load)
    names = _names(against) if against is not None else compare.installed()
    with reading(db) as database:
        report = screen.stderr().print
        rows = compare.side_by_side(model.problem, hardware, database, tokens, names, load, report)
    try:
        with Database(db) as database:
            recorded.record(database, model.problem, hardware, rows)
    except DatabaseError as error:  # the times are worth more than their place
        report(f"the times are not kept: {error}")
    if as_json:
        told = {"problem": model.problem.key, "name": model.problem.name}
        screen.echo(json.dumps({**told, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    out = screen.stdout()
    out.print(model.problem.describe())
    out.print(screen.table(_COLUMNS, [_row(row) for row in rows]))
    for name, reason in {row.peer: row.refused for row in rows if row.refused}.items():
        out.print(f"{name} cannot run it: {reason}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _row(row: PeerRow) -> tuple[str, ...]:
    theirs = ("cannot run", "")
    if not row.refused:
        faster = words.times(row.ratio, row.ratio_low, row.ratio_high)
        theirs = words.duration(row.peer_median_ns), faster
    return (
        str(row.tokens),
        row.match,
        words.duration(row.ours_median_ns),
        f"{row.peer} ({row.form})" if row.form else row.peer,
        *theirs,
        words.rate(row.ceiling, row.gflop_s, row.gb_s),
        f"{words.percent(row.ceiling_fraction)} of {row.ceiling}",
    )
