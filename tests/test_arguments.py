"""Arguments of public functions that are of another kind than they must be: one line of our errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.kernels import TINY
from tuner.errors import MoetuneError, UsageError
from tuner.host.arguments import require
from tuner.runtime.layer import Layer
from tuner.target import detect

WEIGHTS = tuner.Weights.random(TINY, seed=0)
NO_BUNDLE = "/no/bundle.moe"
# What no argument can be, whatever it is for.
ODD: dict[str, Any] = {
    "None": None,
    "a whole number": 3,
    "a number below 0": -1,
    "a huge number": 10**30,
    "a fraction": 1.5,
    "NaN": float("nan"),
    "bytes": b"x",
    "a text with NUL": "a\0b",
    "half of a pair": "a\ud800",
    "no text": "",
    "a list": [1],
    "a dict": {},
    "an object": object(),
    "a class": int,
    "an array": np.ones(3),
    "an array of objects": np.array([object()]),
    "a path": Path("/"),
    "true": True,
}
# Each argument of each public function -> a call with it, and the names of ODD that it takes after all.
CALLS: dict[str, tuple[Callable[[Any], object], str]] = {
    "load source": (lambda v: tuner.load(v, WEIGHTS), ""),
    "load weights": (lambda v: tuner.load(TINY, v), ""),
    "load db": (lambda v: tuner.load(TINY, WEIGHTS, db=v), "None"),
    "load target": (lambda v: tuner.load(TINY, WEIGHTS, target=v), "None"),
    "load load": (lambda v: tuner.load(TINY, WEIGHTS, load=v), ""),
    "load problem": (lambda v: tuner.load(TINY, WEIGHTS, problem=v), "None"),
    "load device": (lambda v: tuner.load(TINY, WEIGHTS, device=v), "None"),
    "load a bundle's trust": (lambda v: tuner.load(NO_BUNDLE, WEIGHTS, trust=v), ""),
    "load a bundle's problem": (lambda v: tuner.load(NO_BUNDLE, WEIGHTS, problem=v), ""),
    "best_config problem": (lambda v: tuner.best_config(v, 1), ""),
    "best_config tokens": (lambda v: tuner.best_config(TINY, v), "a whole number,true"),
    "best_config load": (lambda v: tuner.best_config(TINY, 1, v), ""),
    "best_config target": (lambda v: tuner.best_config(TINY, 1, target=v), "None"),
    "best_config db": (lambda v: tuner.best_config(TINY, 1, db=v), "None"),
    "trace path": (lambda v: tuner.trace(v).start(), "half of a pair"),
    "Client url": (lambda v: tuner.Client(v), ""),
    "Database path": (lambda v: tuner.Database(v, read_only=True), ""),
    "Problem hidden": (lambda v: TINY.replace(hidden=v), "a whole number"),
    "Problem activation": (lambda v: TINY.replace(activation=v), ""),
    "Problem dtype": (lambda v: TINY.replace(weight_dtype=v), "no text"),
    "Problem renormalize": (lambda v: TINY.replace(renormalize=v), "true"),
    "Problem routing_scale": (lambda v: TINY.replace(routing_scale=v), "a whole number,a fraction"),
    "Problem name": (lambda v: TINY.replace(name=v), "a text with NUL,half of a pair,no text"),
    "Problem.preset": (lambda v: tuner.Problem.preset(v), ""),
    "Problem.from_hf_config": (lambda v: tuner.Problem.from_hf_config(v), ""),
    "Problem.from_key": (lambda v: tuner.Problem.from_key(v), ""),
    "Weights.random problem": (lambda v: tuner.Weights.random(v, 0), ""),
    "Weights.random seed": (
        lambda v: tuner.Weights.random(TINY, v),
        "a whole number,a huge number",
    ),
    "Weights.check": (lambda v: WEIGHTS.check(v), ""),
    "an array of Weights": (lambda v: dataclasses.replace(WEIGHTS, up=v).check(TINY), ""),
    "Workload tokens": (lambda v: tuner.Workload(v), "a whole number,true"),
    "Workload load": (lambda v: tuner.Workload(1, v), ""),
    "Target.from_key": (lambda v: tuner.Target.from_key(v), ""),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_an_argument_cannot_be_is_told_in_a_line(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a relative path that is taken after all would be a file here
    function, taken = CALLS[call]
    for name, value in ODD.items():
        if name in taken.split(","):
            continue
        with pytest.raises(MoetuneError) as told:
            function(value)
        assert "\n" not in str(told.value), name
    assert list(tmp_path.iterdir()) == []


def test_the_argument_is_named_with_the_mend() -> None:
    for call, message in {
        lambda: tuner.load(None, WEIGHTS): (  # type: ignore[call-overload]
            r"^source: is None, must be a Problem or a text or a path; give a Problem or a bundle's path$"
        ),
        lambda: tuner.load(TINY, None): (  # type: ignore[call-overload]
            r"^weights: is None, must be a Weights; tuner\.Weights takes the arrays by name$"
        ),
        lambda: require("x", True, int): r"^x: is True, must be a int$",
    }.items():
        with pytest.raises(UsageError, match=message):
            call()


@pytest.fixture(scope="module")
def layer() -> Layer:
    return tuner.load(TINY, WEIGHTS, target=detect())


@pytest.mark.compiler
def test_arrays_that_numpy_cannot_read_are_told(layer: Layer) -> None:
    torch = pytest.importorskip("torch")
    good = np.ones((2, TINY.hidden), np.float32)
    odd: dict[str, Any] = {
        "meta": torch.empty(2, TINY.hidden, device="meta"),
        "sparse": torch.eye(TINY.hidden).to_sparse(),
        "compressed": torch.eye(TINY.hidden).to_sparse_csr(),
        "ragged": [[1], [1, 2]],
        "None": None,
        "texts": np.array(["a"]),
    }
    for name, value in odd.items():
        for argument, call in {
            "x": lambda v=value: layer(v),
            "out": lambda v=value: layer(good, out=v),
        }.items():
            if (name, argument) != ("None", "out"):
                with pytest.raises(UsageError, match=f"^{argument}: "):
                    call()
        with pytest.raises(MoetuneError):
            layer.selection(value)
        with pytest.raises(MoetuneError):
            layer.prepare([value])
    for name in ("meta", "sparse"):
        with pytest.raises(MoetuneError, match=r"^up: is a Tensor that NumPy cannot read"):
            dataclasses.replace(WEIGHTS, up=odd[name]).check(TINY)
