"""Rows: a list for people as a table, for programs as CSV or JSON, for pages as Markdown."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from tuner.cli import screen

Command = Callable[..., int | None]
Rows = Sequence[Mapping[str, Any]]
Lines = Sequence[Sequence[str]]

_FORMS = {
    "csv": "Print CSV: all columns.",
    "json": "Print JSON: all columns.",
    "md": "Print a table in Markdown.",
}


# More columns than any table of ours has.
_ANY = 10_000


def form_options(command: Command) -> Command:
    """Give a command --csv, --json and --md, as its argument ``form``: one of them, or table."""
    for form, text in reversed(_FORMS.items()):
        command = click.option(f"--{form}", "form", flag_value=form, help=text)(command)
    return click.option("--table", "form", flag_value="table", default=True, hidden=True)(command)


def show(form: str, rows: Rows, columns: Sequence[str], lines: Lines, titled: bool = False) -> None:
    """Print rows in a form: as they are, or for people as lines of texts under columns.

    A table that is ``titled`` is one for each text of the first column, below it.
    """
    if form == "json":
        screen.echo(json.dumps(list(rows), indent=2, allow_nan=False))
    elif form == "csv":
        screen.write(_csv(rows).encode())
    elif form == "md":
        screen.write(_markdown(columns, lines).encode())
    elif titled:
        for title in dict.fromkeys(line[0] for line in lines):
            screen.echo(title)
            _print_table(columns[1:], [line[1:] for line in lines if line[0] == title])
    else:
        _print_table(columns, lines)


def moment(created: str) -> str:
    """A time of the database (UTC, ISO 8601) to the minute, as it stands in a table."""
    return created[:16].replace("T", " ")


def _print_table(columns: Sequence[str], lines: Lines) -> None:
    """Nothing of it is cut: a terminal folds what it has no room for, but for the first column, which names the
    row, as long as it can; a file is as wide as it must be. Columns without any text are left out."""
    told = [n for n in range(len(columns)) if not lines or any(line[n] for line in lines)]
    made = screen.table([columns[n] for n in told], [[line[n] for n in told] for line in lines])
    out = screen.stdout()
    for number, column in enumerate(made.columns):
        column.overflow, column.no_wrap = "fold", number == 0
    if not sys.stdout.isatty():
        out.width = max(
            out.width, out.measure(made, options=out.options.update(width=_ANY)).maximum
        )
    out.print(made)


def _csv(rows: Rows) -> str:
    """All columns that any row has, in the order in which they come."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _markdown(columns: Sequence[str], lines: Lines) -> str:
    """A column whose name starts with ``>`` holds numbers, as in a table of the screen."""
    names = [column.lstrip("> ") for column in columns]
    ruler = ["---:" if column[0] == ">" else "---" for column in columns]
    cells = [[cell.replace("|", "\\|").replace("\n", "; ") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in (names, ruler, *cells))
