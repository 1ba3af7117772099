"""Lines of a TOML file's tables and keys, for messages: tomllib keeps no positions."""

from __future__ import annotations

import re
import tomllib
from typing import NamedTuple


class Place(NamedTuple):
    """A key of a table, or the table itself; of an array of tables its table of this number, from 0."""

    table: str
    key: str = ""
    number: int = 0


def line_of(text: str, place: Place) -> int | None:
    """The line of a place, from 1; that of the table where the key is not there, None where neither is.

    A row of an inline array (`key = [{...}, {...}]`) is at the line of its array's key.
    """
    found = _line_of(text, place)
    table, _, key = place.table.rpartition(".")
    return found or (_line_of(text, Place(table, key)) if table else None)


def _line_of(text: str, place: Place) -> int | None:
    header = re.compile(rf"\s*\[\[?\s*{re.escape(place.table)}\s*\]")
    key = re.compile(rf"\s*{re.escape(place.key)}\s*=")
    lines = list(enumerate(text.splitlines(), start=1))
    starts = [number for number, line in lines if header.match(line)]
    if place.number >= len(starts):
        return None
    start = starts[place.number]
    for number, line in lines[start:]:
        if re.match(r"\s*\[", line):
            break
        if place.key and key.match(line):
            return number
    return start


def line_of_error(text: str, error: tomllib.TOMLDecodeError) -> int:
    """The line at which a file stops being TOML."""
    found = re.search(r"at line (\d+)", str(error))
    return int(found[1]) if found else len(text.splitlines())
