"""The tuned kernel as a custom op of MAX graphs on the CPU. Needs max.

    weights = tuner.max.pack(tuner.Weights(...), problem, tokens=128)
    with Graph("layer", input_types=[...], custom_extensions=[weights.package]) as graph:
        graph.output(tuner.max.moe(graph.inputs[0].tensor, weights, problem))
    model = InferenceSession().load(graph, weights_registry=weights.registry)

The op is the kernel's own template, rendered for the variant that `best_config` selects and registered
by templates/moe_max.mojo.j2. Its weights are external constants: MAX reads the packed array where
it lies, and the compiled graph, which MAX caches, does not depend on their values. As constants in the
graph they would be copied into it and make another graph of every layer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from max.dtype import DType
from max.graph import DeviceRef, TensorType, TensorValue, ops

from tuner import template
from tuner.compile import compile_source
from tuner.database import Database
from tuner.errors import UsageError
from tuner.kernel import Kernel
from tuner.paths import cache_dir
from tuner.problem import Problem
from tuner.render import HEADER, render
from tuner.select import Selection, best_config
from tuner.variant import Variant, make
from tuner.weights import Weights

_TEMPLATE = "moe_max"
_ROUTER = ("router", "router_bias", "correction_bias")


@dataclass(frozen=True)
class MaxWeights:
    """A layer that is ready for a graph.

    Attributes:
        problem: what it computes; `selection` says with which variant, and why that.
        package: the folder of the op's Mojo package, for a graph's `custom_extensions`.
        registry: the packed arrays by name, for `session.load(graph, weights_registry=...)`; they
            have to live as long as the model.
        op: the name that the package registers, one for each problem and variant.
    """

    problem: Problem
    selection: Selection
    package: Path
    registry: Mapping[str, npt.NDArray[Any]]
    op: str
