"""tuner.max: the kernel as a custom op inside MAX graphs, against the float64 reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType

import tuner
from tests.benchmark_scripts import script
from tests.kernels import REDUCED, TINY, tokens
from tuner import max as tuner_max
from tuner.codegen import render
from tuner.errors import UsageError
from tuner.measure import reference
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights
from tuner.select.select import best_config

CPU = DeviceRef.CPU()


def input_types(problem: Problem, count: str | int = "tokens") -> list[TensorType]:
    return [TensorType(DType[problem.dtype], [count, problem.hidden], CPU)]


def ready(problem: Problem, package: Path = Path("nowhere")) -> tuner_max.MaxWeights:
    """As `pack` makes them, but nothing is compiled or packed."""
    return tuner_max.MaxWeights(
        problem=problem,
        selection=best_config(problem, 1),
        package=package,
        registry={"moe.panels": np.zeros(64, np.uint8)},
        op="moetune.none",
    )


def rendered(problem: Problem) -> str:
    """The Mojo of the op of the default variant."""
    config = best_config(problem, 1).config
    return render.fill(
        "moe_max", {"problem": problem, "op": "moetune.test", "threads": 2, **config}
    )


def test_the_op_is_the_kernel_without_its_exports() -> None:
    kernel = render.fill("moe_cpu", {"problem": TINY, **best_config(TINY, 1).config})
    text = rendered(TINY)
    assert "@export" not in text
    assert text.count("@extensibility.register") == 1
    without = kernel.replace("@export\n", "")
    assert len(without) < len(kernel)
    assert text.startswith(without)


@pytest.mark.parametrize("name", REDUCED)
def test_the_op_takes_the_arrays_that_the_router_has(name: str) -> None:
    problem = REDUCED[name]
    inputs = re.findall(r"^        (\w+): InputTensor", rendered(problem), re.MULTILINE)
    biases = {"router_bias": problem.router_bias, "correction_bias": problem.correction_bias}
    assert inputs == ["x", "packed", "router", *(bias for bias, there in biases.items() if there)]


@pytest.mark.parametrize(
    ("given", "types", "message"),
    [
        (
            TINY.replace(top_k=1),
            input_types(TINY),
            r"weights: packed for .* k=1, .*pack them again",
        ),
        (TINY, input_types(TINY.replace(hidden=56)), r"x: is .*56.*, must be \[T, 48\] float32 on"),
        (TINY, input_types(TINY.replace(dtype="bfloat16")), r"x: is .*, must be \[T, 48\] float32"),
        (TINY, input_types(TINY), r"no kernel registered .*; make it with custom_extensions="),
    ],
)
def test_what_does_not_fit_is_refused(given: Problem, types: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Graph("layer", lambda x: tuner_max.moe(x, ready(given), TINY), input_types=types)


def model(layers: list[tuner_max.MaxWeights]) -> Any:
    """A loaded graph: the layers one after the other."""

    def forward(x: Any) -> Any:
        for layer in layers:
            x = tuner_max.moe(x, layer, layer.problem)
        return x

    packages = sorted({layer.package for layer in layers})
    graph = Graph(
        "layers", forward, input_types=input_types(layers[0].problem), custom_extensions=packages
    )
    registry = {name: array for layer in layers for name, array in layer.registry.items()}
    return InferenceSession().load(graph, weights_registry=registry)


@pytest.mark.compiler
@pytest.mark.slow
def test_two_layers_of_one_graph_share_an_op() -> None:
    weights = [Weights.random(TINY, seed) for seed in (1, 2)]
    layers = [tuner_max.pack(w, TINY, f"layers.{i}.moe") for i, w in enumerate(weights)]
    assert layers[0].package == layers[1].package
    graph = model(layers)
    for count in (
        0,
        1,
        5,
        40,
        3,
    ):  # 40: tiles of several rows; 3: a smaller call after a larger one
        x = tokens(TINY, count)
        right = x.astype(np.float64)
        for w in weights:
            right = reference.moe(TINY, w.check(TINY), right)
        (y,) = graph.execute(Buffer.from_numpy(x))
        np.testing.assert_allclose(y.to_numpy(), right, atol=1e-5 * np.abs(right).max(initial=1))
    # MAX reads the packed weights where they lie.
    layers[1].registry["layers.1.moe.panels"][:] = 0
    (y,) = graph.execute(Buffer.from_numpy(x))
    assert not y.to_numpy().any()


@pytest.mark.compiler
@pytest.mark.slow
def test_two_problems_of_one_graph() -> None:
    """Every array that a router may have, a shared expert, and two ops in one process."""
    problems = [REDUCED["deepseek-v3"], REDUCED["gpt-oss-20b"]]
    weights = [Weights.random(p, 3) for p in problems]
    layers = [
        tuner_max.pack(w, p, f"{i}") for i, (w, p) in enumerate(zip(weights, problems, strict=True))
    ]
    assert layers[0].op != layers[1].op
    x = tokens(problems[0], 33)
    right = x.astype(np.float64)
    for w, p in zip(weights, problems, strict=True):
        right = reference.moe(p, w.check(p), right)
    (y,) = model(layers).execute(Buffer.from_numpy(x))
    np.testing.assert_allclose(y.to_numpy(), right, atol=1e-5 * np.abs(right).max())


@pytest.mark.compiler
@pytest.mark.slow
def test_bfloat16() -> None:
    """Tokens, weights and answers; NumPy and MAX exchange them as bits."""
    problem = TINY.replace(dtype="bfloat16", weight_dtype="bfloat16")
    weights = Weights.random(problem, 4)
    graph = model([tuner_max.pack(weights, problem, "moe")])
    for count in (1, 20):
        x = tokens(problem, count).astype(NUMPY_DTYPES["bfloat16"])
        given = Buffer.from_numpy(x.view(np.uint16)).view(DType.bfloat16, x.shape)
        (answer,) = graph.execute(given)
        assert answer.dtype == DType.bfloat16
        y = answer.view(DType.uint16, x.shape).to_numpy().view(x.dtype)
        right = reference.moe(problem, weights.check(problem), x)
        error = np.linalg.norm(y.astype(float) - right, axis=1) / np.linalg.norm(right, axis=1)
        assert error.max() < 2**-8
        np.testing.assert_array_equal(y, tuner.load(problem, weights)(x))


def test_a_race_samples_every_contestant_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script("max_op", monkeypatch)
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in ("op", "dense", "library")}
    samples = bench.race(runs, 4, cold=False)
    assert {name: len(times) for name, times in samples.items()} == dict.fromkeys(runs, 4)
    rounds = [calls[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(order) == sorted(runs) for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1


@pytest.mark.compiler
@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "gathered"])
def test_the_op_is_compared_with_what_computes_the_same(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = script("max_op", monkeypatch)
    problem = TINY.replace(score="topk_softmax")
    weights = Weights.random(problem, 0).check(problem)
    graph = bench.form_model(InferenceSession(), form, problem, weights)
    x = tokens(problem, 5)
    right = reference.moe(problem, weights, x)
    assert bench.error(lambda: graph.execute(Buffer.from_numpy(x))[0], right) < 1e-5
