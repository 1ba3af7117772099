"""Extras: packages that one command needs and the others do without, imported late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tuner.errors import UsageError


@contextlib.contextmanager
def required(extra: str) -> Iterator[None]:
    """Turn a missing package into a UsageError that names the extra which brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "tuner":
            raise
        message = f"{error.name}: not installed; pip install 'moetune[{extra}]'"
        raise UsageError(message) from error
