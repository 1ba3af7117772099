"""Edits: switch something off in a rendered kernel by replacing parts of its text.

A file NAME.toml beside this one holds the edits of one ablation, each with the text that must be there, how
often, what takes its place, and why. What isn't found is an error: the template has changed, and the edit has
to follow.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import MoetuneError

FOLDER = Path(__file__).parent


class EditError(MoetuneError):
    """What switches something off does not fit the template any more, or makes a wrong kernel."""


@dataclass(frozen=True)
class Edit:
    """`old` stands `count` times in the source; `new` takes its place."""

    old: str
    new: str
    why: str
    count: int = 1


def names() -> tuple[str, ...]:
    """All files of edits, by their stem."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


@functools.cache
def load(name: str) -> tuple[Edit, ...]:
    """The edits of NAME.toml, those that it comes after first."""
    data = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    before = load(data["after"]) if "after" in data else ()
    return (*before, *(Edit(**row) for row in data["edits"]))


def apply(name: str, text: str) -> str:
    """A kernel's source with the edits of NAME.toml. Raises EditError where one does not fit."""
    for edit in load(name):
        found = text.count(edit.old)
        if found != edit.count:
            raise EditError(
                f"{name}.toml: {edit.why}: its old text is {found} times in the kernel, must be "
                f"{edit.count} times; fit it to the template:\n{edit.old}"
            )
        text = text.replace(edit.old, edit.new)
    return text
