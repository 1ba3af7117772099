"""Offline rounds: ``tune --offline`` makes a job folder, ``run-job`` runs it, ``tell`` reads it back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from tuner.cli import screen
from tuner.cli.options import Model, db_option, json_option, seconds
from tuner.offline.batch import Round
from tuner.offline.make import described, make_job
from tuner.offline.run import run
from tuner.offline.tell import Told
from tuner.offline.tell import tell as read_back
from tuner.report import words
from tuner.store.database import Database, default_path
from tuner.store.reading import history
from tuner.target import Target

_COLUMNS = ("> tokens", "> default", "winner", "> time", "> speed-up")
_folder = click.Path(path_type=Path, file_okay=False)


def make(
    model: Model, target: Target, db: Path | None, asked: Round, folder: Path, as_json: bool
) -> None:
    """What ``tune --offline`` does."""
    with history(db or default_path()) as database:
        made = make_job(model.problem, target, database, asked, folder, _progress)
    if as_json:
        screen.echo(json.dumps(described(made, folder), indent=2))
        return
    mib = made.size_bytes / 2**20
    notes = [f"{made.programs} programs", f"{mib:.1f} MiB"]
    notes += [f"{made.failed} did not compile"] if made.failed else []
    notes += [f"{made.left_out} left out by --most-mib"] if made.left_out else []
    screen.echo(f"{folder}: {', '.join(notes)}")
    where = made.target.accelerator or f"{made.target.arch} ({made.target.cores} cores)"
    screen.echo(f"on the machine with the {where}: python {folder / 'run.py'}")
    screen.echo(f"then, with its results here: moetune tell {folder}")


@click.command("run-job")
@click.argument("folder", type=_folder)
@click.option("--time", "time_s", type=seconds, default="1h", show_default=True,
              metavar="90s|10m|1h", help="Start nothing new after this.")  # fmt: skip
def run_job(folder: Path, time_s: float) -> None:
    """Verify and measure a job folder's variants on this machine's GPU or CPU.

    Results go to results.jsonl in the folder as they come; run again, it goes on from there.
    """
    run(folder, time_s, _progress)
    screen.echo(f"{folder / 'results.jsonl'}: moetune tell {folder}")


@click.command()
@click.argument("folder", type=_folder)
@db_option
@json_option
def tell(folder: Path, db: Path | None, as_json: bool) -> None:
    """Read a job folder's results into the database, as far as it got."""
    with Database(db) as database:
        told = read_back(folder, database)
    for line in told.left_out:
        _progress(line)
    if as_json:
        screen.echo(json.dumps(asdict(told), indent=2))
        return
    _show(told)


def _show(told: Told) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(told.statuses.items()))
    screen.echo(f"{told.target.describe()}")
    measured, asked = (t.accelerator or t.arch for t in (told.target, told.asked_for))
    if measured != asked:
        screen.echo(f"measured on {measured}, asked for {asked}: recorded under {measured}")
    screen.echo(f"trials: {counts or 'none'}; {told.recorded} new")
    if told.cells:
        rows = [
            (
                str(cell.tokens),
                words.duration(cell.default_ns),
                "default" if cell.winner == cell.default else cell.winner,
                words.duration(cell.winner_ns),
                words.times(1 / cell.ratio, 1 / cell.high, 1 / cell.low),
            )
            for cell in told.cells
        ]
        screen.stdout().print(screen.table(_COLUMNS, rows))


def _progress(line: str) -> None:
    screen.echo(line, err=True)
