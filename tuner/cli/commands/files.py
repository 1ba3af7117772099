"""``moetune generate``, ``export``, ``import`` and ``merge``: what travels as text."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tuner.cli import screen
from tuner.cli.options import db_option, json_option
from tuner.errors import UsageError
from tuner.store import generate as stage
from tuner.store import merge, shipped, t4
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best, texts

BEST = Path("db", "best.jsonl")
# What every SQLite file starts with.
_SQLITE = b"SQLite format 3\0"
_STDOUT = Path("-")
_path = click.Path(path_type=Path)


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 where a file is not fresh.")
@click.option("--db", type=_path, help="Take the winners of a database, not of db/best.jsonl.")
@click.option("--out", type=_path, default="generated", show_default=True, help="The folder.")
def generate(check: bool, db: Path | None, out: Path) -> int:
    """Write the winners' Mojo sources.

    They follow from db/best.jsonl alone: the checkout's, else the package's.

    Files that no winner needs are named, never deleted.
    """
    rows = stage.winners_of_database(db) if db else stage.winners_of_text(_best())
    expected = stage.sources(rows)
    state = stage.compare(expected, out)
    if not check:
        written = stage.write(expected, out)
        screen.echo(f"{out}: {len(expected)} files, {written} written")
        _name(out, {"extra": state.extra})
        return 0
    _name(out, {"missing": state.missing, "stale": state.stale, "extra": state.extra})
    screen.echo(f"{out}: {len(expected)} files, {'fresh' if state.fresh else 'not fresh'}")
    return 0 if state.fresh else 1


_MENDS = {
    "missing": "run `moetune generate`",
    "stale": "run `moetune generate`",
    "extra": "no winner needs it; delete it",
}


def _name(out: Path, found: dict[str, tuple[str, ...]]) -> None:
    for kind, names in found.items():
        for name in names:
            screen.echo(f"{kind:8} {out / name}: {_MENDS[kind]}", err=True)


def _best() -> Path:
    """The checkout's winners, else those that the package brings."""
    return BEST if BEST.is_file() else shipped.path()


@click.command()
@click.argument("path", type=click.Path(path_type=Path, allow_dash=True), default=_STDOUT)
@click.option("--format", "form", type=click.Choice(["jsonl", "t4"]), default="jsonl", show_default=True,
              help="jsonl: the winners; t4: all trials of one cell, in Kernel Tuner's T4 format.")  # fmt: skip
@click.option("--problem", help="With t4: the cell's problem, by its name.")
@click.option("--tokens", type=int, help="With t4: the cell's token count.")
@click.option("--load", help="With t4: the cell's load over the experts.")
@db_option
def export(
    path: Path,
    form: str,
    problem: str | None,
    tokens: int | None,
    load: str | None,
    db: Path | None,
) -> None:
    """Write the winners as JSON lines, or recorded trials as T4 results.

    PATH is standard output unless given; lines and keys are sorted. A T4 file holds one cell, and is packed
    where its name ends in .gz.
    """
    if form == "jsonl" and (problem, tokens, load) != (None, None, None):
        raise UsageError(
            "--problem, --tokens, --load: only with --format t4; winners are all written"
        )
    with Database(db, read_only=True) as database:
        if form == "t4":
            _export_trials(database, path, problem, tokens, load)
        elif path == _STDOUT:
            screen.write("".join(texts(database)).encode())
        else:
            screen.echo(f"{path}: {export_best(database, path)} winners")


def _export_trials(
    database: Database, path: Path, problem: str | None, tokens: int | None, load: str | None
) -> None:
    document, left_out = t4.of_cell(database, problem, tokens, load)
    old = f", {left_out} of an earlier template or compiler left out" if left_out else ""
    told = f"{path}: {len(document['results'])} trials{old}"
    if path == _STDOUT:
        screen.write(t4.encoded(document))
        screen.echo(told, err=True)
    else:
        t4.write(path, document)
        screen.echo(told)


@click.command("import")
@click.argument("path", type=_path, required=False)
@db_option
def import_(path: Path | None, db: Path | None) -> None:
    """Read winners from JSON lines.

    PATH is db/best.jsonl, or where that is not there the file that the package brings, unless
    given; the package's serves without being imported, too. All of it is taken or, where a line is bad,
    nothing; a later winner is not replaced.
    """
    path = path or _best()
    with Database(db) as database:
        count = import_best(database, path)
        screen.echo(f"{database.path}: {count} winners taken from {path}")


@click.command("merge")
@click.argument("paths", type=_path, nargs=-1, required=True)
@db_option
@json_option
def merge_(paths: tuple[Path, ...], db: Path | None, as_json: bool) -> None:
    """Merge results of other machines; keep the better-measured ones.

    PATHS are JSON lines of `moetune export`, or databases. A row that is not proven, or not surely faster,
    never replaces a proven one. Of a file all is taken or, where a line is bad, nothing.
    """
    with Database(db) as database:
        found = {str(path): merge.merge(database, _winners_in(path), str(path)) for path in paths}
    if as_json:
        screen.echo(
            json.dumps({p: [vars(line) for line in lines] for p, lines in found.items()}, indent=2)
        )
        return
    for path, lines in found.items():
        told = ", ".join(f"{count} {name}" for name, count in merge.counts(lines).items())
        screen.echo(f"{path}: {told}")
        for line in lines:
            if line.outcome is merge.LineOutcome.KEPT:
                screen.echo(f"  line {line.line}: {line.reason}", err=True)


def _winners_in(path: Path) -> bytes:
    """The winners in a file as JSON lines, or those of a database."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); name a file") from error
    if not data.startswith(_SQLITE):
        return data
    with Database(path, read_only=True) as other:
        return "".join(texts(other)).encode()
