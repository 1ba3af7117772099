"""Command lines in this process: what they ended with and what they wrote where."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    """Exit code, standard output and standard error of one command."""

    code: int
    out: str
    err: str


Run = Callable[[str], Said]
