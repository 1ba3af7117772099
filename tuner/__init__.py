"""moetune: tuned Mixture-of-Experts kernels in Mojo, measured on the machine they run on.

Importing it imports nothing else: each name brings what it needs when it is first asked for. Running a bundle
needs NumPy alone.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from tuner.version import __version__

if TYPE_CHECKING:
    from tuner import bundle as bundle
    from tuner import errors as errors
    from tuner import max as max
    from tuner import target as target
    from tuner import torch as torch
    from tuner.client import Client
    from tuner.errors import MoetuneError
    from tuner.loading import load
    from tuner.problem import Problem
    from tuner.problem.weights import Weights
    from tuner.problem.workload import Workload
    from tuner.runtime.gpu_layer import GpuLayer
    from tuner.runtime.layer import Layer
    from tuner.runtime.stats import Stats
    from tuner.runtime.trace import trace
    from tuner.runtime.tuning_layer import TuningLayer
    from tuner.select.select import best_config
    from tuner.select.selection import Selection
    from tuner.store.database import Database
    from tuner.target import Target

# What `from tuner import *` takes; modules that want torch or MAX are imported by their names.
__all__ = [
    "Client",
    "Database",
    "GpuLayer",
    "Layer",
    "MoetuneError",
    "Problem",
    "Selection",
    "Stats",
    "Target",
    "TuningLayer",
    "Weights",
    "Workload",
    "__version__",
    "best_config",
    "load",
    "trace",
]

# Where each name is that comes when it is asked for; None: it is a module itself.
_PLACES = {
    "Client": "tuner.client",
    "Database": "tuner.store.database",
    "GpuLayer": "tuner.runtime.gpu_layer",
    "Layer": "tuner.runtime.layer",
    "MoetuneError": "tuner.errors",
    "Problem": "tuner.problem",
    "Selection": "tuner.select.selection",
    "Stats": "tuner.runtime.stats",
    "Target": "tuner.target",
    "TuningLayer": "tuner.runtime.tuning_layer",
    "Weights": "tuner.problem.weights",
    "Workload": "tuner.problem.workload",
    "best_config": "tuner.select.select",
    "bundle": None,
    "errors": None,
    "load": "tuner.loading",
    "max": None,
    "target": None,
    "torch": None,
    "trace": "tuner.runtime.trace",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that is there
    if sys.platform == "win32":
        raise ImportError(
            "moetune runs on Linux on x86-64, and reads results on macOS; on Windows use WSL, the "
            "Windows Subsystem for Linux"
        )

    def __getattr__(name):
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        place = _PLACES[name]
        try:
            if place is None:
                return importlib.import_module(f"{__name__}.{name}")
            found = getattr(importlib.import_module(place), name)
        except ModuleNotFoundError as error:  # so `hasattr` and `help` say what is there
            lacking = f"needs the package {error.name}, which is not installed"
            raise AttributeError(f"{__name__}.{name}: {lacking}") from error
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_PLACES})
