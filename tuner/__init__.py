"""moetune: tuned Mixture-of-Experts kernels in Mojo, measured on the machine they run on.

Importing it needs NumPy alone; what tunes, compiles or reads the database is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tuner.errors import MoetuneError
from tuner.loading import load
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload
from tuner.runtime.layer import Layer
from tuner.runtime.stats import Stats
from tuner.runtime.trace import trace
from tuner.select.selection import Selection
from tuner.target import Target
from tuner.version import __version__

if TYPE_CHECKING:
    from tuner.client import Client
    from tuner.runtime.gpu_layer import GpuLayer
    from tuner.select.select import best_config
    from tuner.store.database import Database

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
    "Database": "tuner.store.database",
    "GpuLayer": "tuner.runtime.gpu_layer",
    "best_config": "tuner.select.select",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)
