"""Catalogue: where a layer finds its kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tuner.problem import Problem
from tuner.select.selection import Selection


class Catalogue(Protocol):
    """Where a layer finds its kernels: the tuning database with the compiler, or a bundle.

    A layer asks for many token counts when it is made, so `select` should cost microseconds and has to
    give the same answer each time. It asks for the binary of a selection once.
    """

    @property
    def problem(self) -> Problem:
        """The one layer that these kernels run."""
        ...

    def select(self, tokens: int, load: str, pack: str | None) -> Selection:
        """Which variant serves this workload; with `pack`, of those that read this packed form."""
        ...

    def binary(self, selection: Selection) -> Path:
        """The shared library of a selection, compiled or unpacked where it isn't yet."""
        ...
