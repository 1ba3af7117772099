"""Discovery: the modules of a room that are found by their name, so that adding one is adding its file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType


def modules(package: str, suffix: str) -> Iterator[ModuleType]:
    """Imports the modules of a package whose names end in ``suffix``, in the order of their names."""
    place = importlib.import_module(package).__path__
    for name in sorted(info.name for info in pkgutil.iter_modules(place)):
        if name.endswith(suffix):
            yield importlib.import_module(f"{package}.{name}")
