"""The scripts of benchmarks/ as modules."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script, with its folder where `python benchmarks/NAME.py` would have it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)
