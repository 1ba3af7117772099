"""moetune: tuned Mixture-of-Experts kernels in Mojo, measured on the machine they run on.

Importing it needs NumPy alone; what tunes, compiles or reads the database is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuner.errors import MoetuneError
from tuner.loading import load
from tuner.problem import Problem
from tuner.runtime import Layer
from tuner.selection import Selection
from tuner.stats import Stats
from tuner.target import Target
from tuner.traffic import trace
from tuner.version import __version__
from tuner.weights import Weights
from tuner.workload import Workload

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.database import Database
    from tuner.gpu_runtime import GpuLayer
    from tuner.select import best_config

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
    "Weights",
    "Workload",
    "__version__",
    "best_config",
    "load",
    "trace",
]

_LATE = {
    "Client": "tuner.client",
    "Database": "tuner.database",
    "GpuLayer": "tuner.gpu_runtime",
    "best_config": "tuner.select",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
