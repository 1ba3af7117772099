"""Weights: shapes and types against the Problem, foreign arrays, and the errors that name them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tuner.errors import WeightsError
from tuner.measure.reference import moe
from tuner.problem import PRESETS, Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights, array_shapes

FULL = Problem(
    hidden=16,
    expert_dim=8,
    num_experts=4,
    top_k=2,
    score="sigmoid",
    expert_bias=True,
    router_bias=True,
    correction_bias=True,
    shared_dim=6,
)
PLAIN = Problem(hidden=16, expert_dim=8, num_experts=4, top_k=2)


class Exported:
    """Has DLPack and nothing else, as tensors of other libraries do."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


class WantsGradient(Exported):
    """Refuses to export until detached, like a torch parameter."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("Can't export tensors that require gradient")

    def detach(self) -> Exported:
        return Exported(self.array)


class OnDevice(WantsGradient):
    def detach(self) -> OnDevice:
        return self


def with_array(name: str, value: Any, problem: Problem = FULL) -> Weights:
    return dataclasses.replace(Weights.random(problem, 0), **{name: value})


def test_random_fills_exactly_what_the_problem_has() -> None:
    weights = Weights.random(FULL, 0)
    shapes = {f.name: getattr(weights, f.name).shape for f in dataclasses.fields(weights)}
    assert shapes == {
        "router": (4, 16), "gate": (4, 8, 16), "up": (4, 8, 16), "down": (4, 16, 8),
        "router_bias": (4,), "correction_bias": (4,), "gate_bias": (4, 8), "up_bias": (4, 8),
        "down_bias": (4, 16), "shared_gate": (6, 16), "shared_up": (6, 16), "shared_down": (16, 6),
    }  # fmt: skip
    assert list(array_shapes(PLAIN)) == ["router", "gate", "up", "down"]
    assert list(array_shapes(FULL.replace(activation="relu"))) == [
        "router", "up", "down", "router_bias", "correction_bias",
        "up_bias", "down_bias", "shared_up", "shared_down",
    ]  # fmt: skip


def test_random_depends_on_the_seed_alone() -> None:
    assert np.array_equal(Weights.random(FULL, 3).up, Weights.random(FULL, 3).up)
    assert not np.array_equal(Weights.random(FULL, 3).up, Weights.random(FULL, 4).up)


def test_random_biases_are_not_zero() -> None:
    weights = Weights.random(FULL, 0)
    for name in ("router_bias", "correction_bias", "gate_bias", "up_bias", "down_bias"):
        assert np.abs(getattr(weights, name)).min() > 0


@pytest.mark.parametrize("name", PRESETS)
def test_random_outputs_are_of_order_one(name: str) -> None:
    small = PRESETS[name].replace(hidden=64, expert_dim=48, shared_dim=0)
    x = np.random.default_rng(0).standard_normal((32, 64), dtype=np.float32)
    y = moe(small, Weights.random(small, 1), x)
    assert 0.02 < float(np.sqrt((y**2).mean())) < 5


def test_random_clamped_experts_meet_the_limit() -> None:
    problem = PLAIN.replace(activation="swiglu_clamped", hidden=256)
    x = np.random.default_rng(0).standard_normal((64, 256), dtype=np.float32)
    up = x @ Weights.random(problem, 0).up[0].T
    assert 0.01 < float((np.abs(up) > problem.swiglu_limit).mean()) < 0.3


def test_check_does_not_copy_what_is_contiguous() -> None:
    weights = Weights.random(FULL, 0)
    checked = weights.check(FULL)
    assert all(
        np.shares_memory(getattr(weights, f.name), getattr(checked, f.name))
        for f in dataclasses.fields(weights)
    )


def test_check_makes_strided_arrays_contiguous() -> None:
    up = Weights.random(FULL, 0).up
    strided = np.ascontiguousarray(up.transpose(0, 2, 1)).transpose(0, 2, 1)
    checked = with_array("up", strided).check(FULL).up
    assert checked.flags.c_contiguous
    assert np.array_equal(checked, up)


def test_check_does_not_copy_the_halves_of_a_fused_array() -> None:
    fused = np.ones((4, 16, 16), np.float32)
    bias = np.ones((4, 16), np.float32)
    halves = {"gate": fused[:, :8], "up": fused[:, 8:], "gate_bias": bias[:, :8]}
    checked = dataclasses.replace(Weights.random(FULL, 0), **halves).check(FULL)
    for name, half in halves.items():
        assert np.shares_memory(getattr(checked, name), half), name


@pytest.mark.parametrize("wrap", [Exported, WantsGradient])
def test_check_reads_dlpack_without_a_copy(wrap: type[Exported]) -> None:
    up = Weights.random(FULL, 0).up
    checked = with_array("up", wrap(up)).check(FULL).up
    assert np.shares_memory(checked, up)


def test_check_reads_torch_parameters() -> None:
    torch = pytest.importorskip("torch")
    up = Weights.random(FULL, 0).up
    parameter = torch.nn.Parameter(torch.from_numpy(up))
    assert np.shares_memory(with_array("up", parameter).check(FULL).up, up)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "gate",
            np.zeros((4, 16, 8)),
            "gate: has shape [4, 16, 8] float64, must be [4, 8, 16] float32",
        ),
        ("down", np.zeros((4, 16, 8), ">f4"), "down: has shape [4, 16, 8] >f4, must be"),
        ("router", [[1.0, 2.0]], "router: has shape [1, 2] float64, must be [4, 16] float32"),
        ("up", None, "up: is missing, must be [4, 8, 16] float32"),
        ("shared_down", None, "shared_down: is missing, must be [16, 6] float32"),
        ("correction_bias", None, "correction_bias: is missing, must be [4] float32"),
        ("up", [[1], [1, 2]], "up: is a list that NumPy cannot read ("),
        ("up", OnDevice(np.zeros(1)), "up: is a OnDevice that NumPy cannot read (Can't export"),
    ],
)
def test_error_says_what_the_array_has_and_what_it_must_have(
    name: str, value: Any, message: str
) -> None:
    with pytest.raises(WeightsError) as error:
        with_array(name, value).check(FULL)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "problem", "reason"),
    [
        ("gate", PLAIN.replace(activation="relu"), "relu experts have no gate"),
        ("gate_bias", PLAIN.replace(activation="relu", expert_bias=True), "relu experts have no"),
        ("up_bias", PLAIN, "the problem says expert_bias=False"),
        ("router_bias", PLAIN, "the problem says router_bias=False"),
        ("correction_bias", PLAIN, "the problem says correction_bias=False"),
        ("shared_up", PLAIN, "the problem says shared_dim=0"),
    ],
)
def test_an_array_too_many_is_refused_with_the_reason(
    name: str, problem: Problem, reason: str
) -> None:
    with pytest.raises(WeightsError, match=f"^{name}: is given, must be None: {reason}"):
        with_array(name, np.zeros(1, np.float32), problem).check(problem)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("name", "where"),
    [("gate", "expert 2"), ("router", "expert 2"), ("down_bias", "expert 2"),
     ("gate_bias", "expert 2"), ("shared_up", "row 2")],
)  # fmt: skip
def test_nan_and_inf_are_refused_where_they_are(name: str, where: str, value: float) -> None:
    weights = Weights.random(FULL, 0)
    getattr(weights, name)[2, ...].flat[-1] = value
    if getattr(weights, name).ndim == 1:
        getattr(weights, name)[2] = value
    with pytest.raises(WeightsError, match=f"^{name}: {where} holds 1 NaN or Inf"):
        weights.check(FULL)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_weights_are_taken_as_they_are(dtype: str) -> None:
    half = PLAIN.replace(dtype=dtype)
    weights = Weights.random(half, 0)
    assert weights.check(half).up.dtype == NUMPY_DTYPES[dtype]
    with pytest.raises(WeightsError, match=rf"^up: has shape .* float32, must be .* {dtype}"):
        Weights.random(PLAIN, 0).check(half)
    spoiled = weights.down.copy()
    spoiled[1, 2, 3] = np.nan
    with pytest.raises(WeightsError, match=r"^down: expert 1 holds 1 NaN"):
        dataclasses.replace(weights, down=spoiled).check(half)


def test_the_router_may_be_float32_beside_16_bit_weights() -> None:
    full = FULL.replace(dtype="bfloat16")
    weights, wide = Weights.random(full, 0), Weights.random(FULL, 0)
    router = {name: getattr(wide, name) for name in ("router", "router_bias", "correction_bias")}
    checked = dataclasses.replace(weights, **router).check(full)
    assert all(getattr(checked, name) is array for name, array in router.items())
    half = wide.router.astype(np.float16)
    with pytest.raises(WeightsError, match=r"float16, must be \[4, 16\] bfloat16 or float32$"):
        dataclasses.replace(weights, router=half).check(full)


@pytest.mark.parametrize("name", ["router_bias", "correction_bias"])
def test_minus_infinity_masks_an_expert(name: str) -> None:
    """It is taken while top_k experts are left; other arrays and other numbers are not."""
    bias = np.array([0, -np.inf, 0.5, -np.inf], np.float32)
    assert with_array(name, bias).check(FULL) is not None
    with pytest.raises(WeightsError, match=f"{name}: masks 3 of 4 experts.*top_k=2 must be left"):
        with_array(name, np.where([True, True, False, True], -np.inf, bias)).check(FULL)
    for value in (np.inf, np.nan):
        with pytest.raises(WeightsError, match=rf"^{name}: expert 1 holds 1 NaN or Inf"):
            with_array(name, np.array([0, value, 0, 0], np.float32)).check(FULL)
    gate_bias = np.full((4, 8), -np.inf, np.float32)
    with pytest.raises(WeightsError, match=r"^gate_bias: expert 0 holds 8 NaN or Inf"):
        with_array("gate_bias", gate_bias).check(FULL)
