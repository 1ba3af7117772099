"""Tuned: kernels from the tuning database, compiled on this machine where the cache has none."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.problem import Problem
from tuner.select.select import answer
from tuner.select.selection import Selection
from tuner.space.variant import make
from tuner.store.database import Database, path_to_read
from tuner.target import Target


@dataclass(frozen=True)
class Tuned:
    """The Catalogue of a problem in a database (or its path; the default one unless given).

    An empty database works: a winner that moetune brings or the template's default is compiled. So does a
    default one that is not there yet.
    `target` is this machine unless given. Raises DatabaseError where a database is named that is not there.
    """

    problem: Problem
    db: Database | str | os.PathLike[str] | None = None
    target: Target | None = None
    _path: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_path", path_to_read(self.db))

    def select(self, tokens: int, load: str, pack: str | None) -> Selection:
        """The database's answer. Raises DatabaseError when it is damaged."""
        return answer(self.problem, tokens, load, self.target, self._path, pack, installed=True)

    def binary(self, selection: Selection) -> Path:
        """From the cache, or compiled. Raises CompileError when there is no toolchain to do that."""
        source = render(self.problem, make(selection.template, selection.config))
        return compile_source(source.text, selection.target).path
