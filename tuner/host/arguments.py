"""Arguments of the public functions: what is of another kind than it must be is told by its name."""

from __future__ import annotations

import os
import reprlib
from typing import Any

from tuner.errors import UsageError

# A class -> what a caller would call it.
_CALLED: dict[Any, str] = {str: "a text", os.PathLike: "a path", type(None): "None"}


def require(name: str, value: object, *kinds: type, mend: str = "") -> None:
    """Raises UsageError where a value is of none of these classes; names the argument and the mend."""
    if isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds):
        return
    must = " or ".join(_CALLED.get(kind, f"a {kind.__name__}") for kind in kinds)
    told = f"{name}: is {shown(value)}, must be {must}"
    raise UsageError(f"{told}; {mend}" if mend else told)


def require_path(name: str, value: object, *others: type) -> None:
    """Raises UsageError where a value is no path that a system takes, and of none of the other classes."""
    require(name, value, str, os.PathLike, *others)
    if isinstance(value, str | os.PathLike):
        path = os.fspath(value)
        if not isinstance(path, str) or "\0" in path:
            raise UsageError(f"{name}: is {shown(value)}, must be a path as text, without NUL")


def shown(value: object) -> str:
    """A value as an error tells it: in one line, and a short one."""
    return " ".join(reprlib.repr(value).split())
