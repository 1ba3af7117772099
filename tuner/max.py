"""The tuned kernel as a custom op of MAX graphs on the CPU. Needs max.

    weights = tuner.max.pack(tuner.Weights(...), problem, "layers.0.moe", tokens=128)
    graph = Graph(
        "layer",
        lambda x: tuner.max.moe(x, weights, problem),
        input_types=[TensorType(DType.float32, ["tokens", problem.hidden], DeviceRef.CPU())],
        custom_extensions=[weights.package],
    )
    model = InferenceSession().load(graph, weights_registry=weights.registry)

The op is the kernel's own template, rendered for the variant that `best_config` selects and registered
by templates/moe_max.mojo.j2. Its weights are external constants: MAX reads the packed arrays where
they lie, and the compiled graph, which MAX caches, does not depend on their values. As constants of the
graph they would be copied into it and make another graph of every layer.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from max.dtype import DType
from max.graph import DeviceRef, Dim, TensorType, TensorValue, ops

from tuner import Selection
from tuner.codegen.compile import compile_source
from tuner.codegen.render import HEADER, fill, render
from tuner.cpu.kernel import Kernel
from tuner.errors import UsageError
from tuner.host.cores import pool_size
from tuner.host.files import write_whole
from tuner.host.paths import cache_dir
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.select.select import best_config
from tuner.space.variant import Variant, make, source_config
from tuner.store.database import Database

_TEMPLATE = "moe_max"


@dataclass(frozen=True, kw_only=True)
class MaxWeights:
    """A layer that is ready for graphs.

    Attributes:
        problem: what it computes.
        selection: the variant, and why that one.
        package: folder of the op's Mojo package, for the `custom_extensions` of a graph.
        registry: the packed arrays by their names in a graph, for `weights_registry` of
            `InferenceSession.load`; they have to live as long as the model.
        op: the name that the package registers, one for each problem and variant.
    """

    problem: Problem
    selection: Selection
    package: Path
    registry: Mapping[str, npt.NDArray[Any]]
    op: str


def pack(
    weights: Weights,
    problem: Problem,
    name: str,
    *,
    tokens: int = 1,
    load: str = "uniform",
    db: Database | str | os.PathLike[str] | None = None,
) -> MaxWeights:
    """Selects the variant for this number of tokens, packs the weights and renders the op.

    `name` tells the layers of a graph apart: two with the same name would share their weights. A
    graph runs one variant, whatever the number of tokens of a call. Raises as `tuner.load` does.
    """
    selection = best_config(problem, tokens, load, db=db)
    variant = make(selection.template, selection.config)
    source = render(problem, variant)
    threads = pool_size(variant.config["workers"], selection.target.cores)
    kernel = Kernel(compile_source(source.text, selection.target).path, problem, threads)
    packed = kernel.pack(weights.check(problem))
    op = f"moetune.{variant.template}_{source.digest}_{threads}"
    return MaxWeights(
        problem=problem,
        selection=selection,
        package=_package(op, problem, variant, threads),
        registry={
            f"{name}.{field}": array for field, array in vars(packed).items() if array is not None
        },
        op=op,
    )


def moe(x: TensorValue, weights: MaxWeights, problem: Problem) -> TensorValue:
    """The layer inside the graph that is being built: y [T, D] for x [T, D] on the CPU.

    Raises UsageError when x or the weights are of another problem, and when the graph was not given
    `weights.package` among its `custom_extensions`.
    """
    if weights.problem != problem:
        raise UsageError(
            f"weights: packed for {weights.problem.describe()}, must be {problem.describe()}; pack them again"
        )
    dtype, cpu = DType[problem.dtype], DeviceRef.CPU()
    if x.rank != 2 or x.shape[1] != Dim(problem.hidden) or x.dtype != dtype or x.device != cpu:
        raise UsageError(
            f"x: is {x.type}, must be [T, {problem.hidden}] {problem.dtype} on the CPU; reshape or cast it"
        )
    arrays = [
        ops.constant_external(name, TensorType(DType.from_numpy(array.dtype), array.shape, cpu))
        for name, array in weights.registry.items()
    ]
    chosen = (x.shape[0], problem.top_k)
    types = [
        TensorType(dtype, x.shape, cpu),
        TensorType(DType.int32, chosen, cpu),
        TensorType(DType.float32, chosen, cpu),
    ]
    try:
        y, *_ = ops.custom(weights.op, device=cpu, values=[x, *arrays], out_types=types)
    except ValueError as error:
        raise UsageError(
            f"graph: {error}; make it with custom_extensions=[weights.package]"
        ) from error
    return y.tensor


def _package(op: str, problem: Problem, variant: Variant, threads: int) -> Path:
    """The folder of the op's Mojo package in the cache; its name follows from its content."""
    anonymous = problem.replace(name="")
    header = HEADER.format(template=_TEMPLATE, problem=anonymous.describe(), variant=variant.name)
    values = {"problem": anonymous, "op": op, "threads": threads, **source_config(variant)}
    text = header + fill(_TEMPLATE, values)
    folder = cache_dir() / "max" / hashlib.sha256(text.encode()).hexdigest()[:32]
    module = folder / "__init__.mojo"
    if not (module.is_file() and module.read_text() == text):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(module, text.encode(), sync=False)
    return folder
