"""The tables of the reference are what the code has: commands, variables, exit codes, the database."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from tests.docs.pages import ROOT
from tuner.cli import endings
from tuner.cli.menu import ENTRIES, SECTIONS
from tuner.errors import MoetuneError
from tuner.store.database import Database

PAGE = (ROOT / "docs" / "commands.md").read_text()
FIND = (ROOT / "docs" / "find.md").read_text()


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the table whose first line starts so, without its head."""
    lines = page[page.index(f"\n{head}") + 1 :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_commands_stand_in_their_groups_and_order() -> None:
    groups: dict[str, set[str]] = {}
    for group, command, *_ in table(PAGE, "| to |"):
        title = group or list(groups)[-1]  # which stands in the first row of a group alone
        groups.setdefault(title, set()).add(command.strip("`"))
    assert groups == {
        title.lower(): {entry.name for entry in entries} for title, entries in SECTIONS.items()
    }
    assert list(groups) == [title.lower() for title in SECTIONS]


def test_hidden_commands_are_said_to_be() -> None:
    told = {row[1].strip("`") for row in table(PAGE, "| to |") if "not in the list" in row[2]}
    assert told == {entry.name for entry in ENTRIES.values() if entry.hidden}


def test_every_variable_is_there_and_no_other() -> None:
    source = "".join(path.read_text() for path in (ROOT / "tuner").rglob("*.py"))
    used = set(re.findall(r'"(MOETUNE_[A-Z]+)"', source))
    rows = [row[0].strip("`") for row in table(PAGE, "| variable |")]
    assert rows == sorted(rows)[1::-1] + rows[2:]  # the two that most people need come first
    assert set(rows) == used


def test_every_exit_code_is_there() -> None:
    codes = [int(row[0]) for row in table(PAGE, "| exit code |")]
    assert codes == sorted(codes)
    assert set(endings.EXIT_CODES) <= set(codes)
    classes = [MoetuneError, *MoetuneError.__subclasses__()]
    assert {error.exit_code for error in classes} <= {endings.SAID_NO, endings.CALLED_WRONGLY}


def test_every_table_of_the_database_is_there_with_its_columns(tmp_path: Path) -> None:
    Database(tmp_path / "t.sqlite3").close()
    connection = sqlite3.connect(tmp_path / "t.sqlite3")
    names = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    there = {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in names
    }
    connection.close()
    told = {
        name.strip("`"): re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", columns))
        for name, columns in table(FIND, "| table |")
    }
    assert told == there
