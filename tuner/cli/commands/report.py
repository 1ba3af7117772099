"""``moetune report``: what is known of one problem, as a file."""

from __future__ import annotations

from pathlib import Path

import click

from tuner.cli import screen
from tuner.cli.options import Model, db_option, model_options
from tuner.host.files import write_named
from tuner.host.optional import required
from tuner.report.peer_times import PeerFile
from tuner.store import shipped
from tuner.store.database import Database
from tuner.store.reading import reading

_path = click.Path(path_type=Path)


@click.command()
@model_options
@click.option("-o", "--out", type=_path, help="The file; stdout unless given.")
@click.option("--format", "form", type=click.Choice(["html", "md"]), default="html", show_default=True,
              help="html: one file with plots; md: tables for a pull request.")  # fmt: skip
@click.option(
    "--peers", type=_path, help="A file of benchmarks/cpu_peers.py --out: its times, too."
)
@db_option
def report(model: Model, out: Path | None, form: str, peers: Path | None, db: Path | None) -> None:
    """Write what is known of a model on every machine.

    The page holds its plots and styles itself and loads nothing.
    """
    with required("serve"):
        from tuner.report import report as stage

        # What ships needs no database yet.
        brought = shipped.winners(model.problem)
        opened = reading(db) if brought else Database(db, read_only=True)
        with opened as database:
            found = stage.sections(database, model.problem, PeerFile(peers))
        text = stage.markdown(found) if form == "md" else stage.html(found)
    if out is None:
        screen.echo(text, nl=False)
        return
    write_named(out, text.encode())
    console = screen.stdout()
    for one in found:
        console.print(one.view.target.describe())
        console.print(screen.table(_COLUMNS, [stage.row(cell) for cell in one.view.cells]))
    console.print(f"{out}: {len(text.encode()) // 1024} KiB", soft_wrap=True)


_COLUMNS = (
    "load", "> tokens", "> time", "> default", "> speed-up", "> rate", "> of ceiling", "winner",
)  # fmt: skip
