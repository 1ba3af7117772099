"""moetune: tuned Mixture-of-Experts kernels in Mojo, measured on the machine they run on."""

from tuner.client import Client
from tuner.errors import MoetuneError
from tuner.problem import Problem
from tuner.runtime import Layer, load
from tuner.select import Selection, best_config
from tuner.target import Target
from tuner.version import __version__
from tuner.weights import Weights
from tuner.workload import Workload

__all__ = [
    "Client",
    "Layer",
    "MoetuneError",
    "Problem",
    "Selection",
    "Target",
    "Weights",
    "Workload",
    "__version__",
    "best_config",
    "load",
]
