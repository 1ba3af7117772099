"""Weights of one MoE layer in the layout of published checkpoints, checked against a Problem."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError, WeightsError
from tuner.host import notebook
from tuner.host.arguments import require
from tuner.problem.arrays import (
    NUMPY_DTYPES,
    dtype_name,
    float32_of,
    held_dtype,
    is_finite,
    to_numpy,
)
from tuner.problem.problem import Problem

# NumPy, torch or anything with DLPack; NumPy throughout once checked.
Array: TypeAlias = Any
# Minus infinity there masks an expert.
_MASKS = ("router_bias", "correction_bias")
_ROUTER = ("router", "router_bias", "correction_bias")
# What is packed expert by expert: the experts may lie apart.
_BY_EXPERT = ("gate", "up", "down", "gate_bias", "up_bias", "down_bias")
# Standard deviation of random biases: large enough that a kernel without them is wrong.
_BIAS_SCALE = 0.25
# Pre-activations of random clamped experts have this deviation, so that 8 % meet the limit of 7.
_CLAMPED_SPREAD = 4.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """The arrays of one MoE layer; those that its Problem does not have are None.

    Attributes:
        router: [E, D].
        gate, up: [E, F, D]; relu experts have no gate.
        down: [E, D, F].
        router_bias, correction_bias: [E].
        gate_bias, up_bias: [E, F].
        down_bias: [E, D].
        shared_gate, shared_up: [Fs, D].
        shared_down: [D, Fs].
    """

    router: Array
    up: Array
    down: Array
    gate: Array = None
    router_bias: Array = None
    correction_bias: Array = None
    gate_bias: Array = None
    up_bias: Array = None
    down_bias: Array = None
    shared_gate: Array = None
    shared_up: Array = None
    shared_down: Array = None

    def __repr__(self) -> str:
        return (
            f"Weights({', '.join(f'{name}: {shape} {kind}' for name, shape, kind in self._told())})"
        )

    def _repr_html_(self) -> str:
        return notebook.table("Weights", self._told(), ("array", "shape", "data type"))

    def _told(self) -> list[tuple[str, str, str]]:
        """Name, shape and data type of each array that is there, checked or not."""
        arrays = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return [(name, *_shown(array)) for name, array in arrays if array is not None]

    def check(self, problem: Problem) -> Weights:
        """Return these weights as NumPy arrays that fit ``problem``, C-contiguous within an expert.

        Copies only what is not contiguous yet (halves of fused gate and up arrays are); memory
        beyond that is one expert's at a time. The router's arrays may be float32 whatever the
        weights are: routing is decided in float32, and some checkpoints keep them so.

        Raises:
            WeightsError: an array that lacks, must be None, has another shape or data type, cannot
                be read, or holds NaN or Inf; names the array, what it has and what it must have. The
                biases of routing may hold minus infinity, which masks an expert; fewer than
                ``top_k`` others are refused.
        """
        require("problem", problem, Problem)
        wanted = array_shapes(problem)
        arrays: dict[str, NDArray[Any] | None] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            shape = wanted.get(field.name)
            if shape is None:
                _check_absent(field.name, value, problem)
                continue
            array = _checked(field.name, value, shape, _dtypes(field.name, problem))
            if field.name in _MASKS:
                _check_masks(field.name, array, problem.top_k)
            else:
                _check_finite(field.name, array)
            arrays[field.name] = array
        return Weights(**arrays)

    @classmethod
    def random(cls, problem: Problem, seed: int) -> Weights:
        """Return normal weights that keep the layer's outputs of order 1 for normal inputs.

        A matrix's deviation is 1/sqrt(fan-in). Biases are nonzero wherever the problem has them.
        """
        require("problem", problem, Problem)
        require("seed", seed, int, np.integer)
        if seed < 0:
            raise UsageError(f"seed: is {seed}, must be at least 0")
        dtype = NUMPY_DTYPES[problem.weight_dtype]
        rng = np.random.default_rng(seed)
        arrays = {}
        for name, shape in array_shapes(problem).items():
            array = rng.standard_normal(shape, dtype=np.float32)
            array *= np.float32(deviation(problem, name, shape))
            arrays[name] = array.astype(dtype, copy=False)
        return cls(**arrays)


def _shown(array: Array) -> tuple[str, str]:
    """Shape and data type, as far as it has them."""
    shape, dtype = getattr(array, "shape", None), getattr(array, "dtype", type(array).__name__)
    return str(list(shape)) if isinstance(shape, tuple) else "?", str(dtype)


def array_shapes(problem: Problem) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array that the problem's Weights must have, by field name."""
    d, f, e, fs = problem.hidden, problem.expert_dim, problem.num_experts, problem.shared_dim
    gated, bias = problem.gated, problem.expert_bias
    table = (
        ("router", (e, d), True),
        ("gate", (e, f, d), gated),
        ("up", (e, f, d), True),
        ("down", (e, d, f), True),
        ("router_bias", (e,), problem.router_bias),
        ("correction_bias", (e,), problem.correction_bias),
        ("gate_bias", (e, f), gated and bias),
        ("up_bias", (e, f), bias),
        ("down_bias", (e, d), bias),
        ("shared_gate", (fs, d), gated and fs > 0),
        ("shared_up", (fs, d), fs > 0),
        ("shared_down", (d, fs), fs > 0),
    )
    return {name: shape for name, shape, there in table if there}


def deviation(problem: Problem, name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of random entries of one array, so that outputs are of order 1."""
    if name.endswith("_bias"):
        return _BIAS_SCALE
    spread = 1.0
    if problem.activation == "swiglu_clamped" and name != "router":
        # The product of gate and up + 1 grows with the square, which down takes back.
        spread = _CLAMPED_SPREAD**-2 if name.endswith("down") else _CLAMPED_SPREAD
    return spread / math.sqrt(shape[-1])


def _check_absent(name: str, value: Array, problem: Problem) -> None:
    if value is None:
        return
    if "gate" in name and not problem.gated:
        reason = f"{problem.activation} experts have no gate"
    elif name.startswith("shared"):
        reason = "the problem says shared_dim=0"
    else:
        field = name if name in ("router_bias", "correction_bias") else "expert_bias"
        reason = f"the problem says {field}=False"
    raise WeightsError(f"{name}: is given, must be None: {reason}")


def _dtypes(name: str, problem: Problem) -> tuple[np.dtype[Any], ...]:
    own = held_dtype(problem.weight_dtype)
    wide = NUMPY_DTYPES["float32"]
    return (own, wide) if name in _ROUTER and own != wide else (own,)


def _checked(
    name: str, value: Array, shape: tuple[int, ...], dtypes: tuple[np.dtype[Any], ...]
) -> NDArray[Any]:
    must = f"must be {list(shape)} {' or '.join(map(dtype_name, dtypes))}"
    if value is None:
        raise WeightsError(f"{name}: is missing, {must}")
    array = _as_numpy(name, value, must)
    if array.shape != shape or array.dtype not in dtypes:
        # A foreign byte order prints as its own name (>f4), which is what the reader must see.
        raise WeightsError(f"{name}: has shape {list(array.shape)} {array.dtype}, {must}")
    if name not in _BY_EXPERT or not array[0].flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array


def _as_numpy(name: str, value: Array, must: str) -> NDArray[Any]:
    try:
        return to_numpy(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = type(value).__name__
        raise WeightsError(
            f"{name}: is a {kind} that NumPy cannot read ({error}), {must} in CPU memory"
        ) from None


def _check_masks(name: str, array: NDArray[Any], top_k: int) -> None:
    """Biases [E] of routing: finite, or minus infinity for an expert that is never chosen."""
    values = float32_of(array)
    masked = np.isneginf(values)
    _check_finite(name, np.where(masked, np.float32(0), values))
    if masked.size - masked.sum() < top_k:
        raise WeightsError(
            f"{name}: masks {int(masked.sum())} of {masked.size} experts with minus infinity, "
            f"top_k={top_k} must be left; mask fewer"
        )


def _check_finite(name: str, array: NDArray[Any]) -> None:
    """Look at one slice of the first axis at a time: the scratch memory is one expert's."""
    for index, block in enumerate(array):
        finite = is_finite(block)
        if not finite.all():
            where = "row" if name.startswith("shared") else "expert"
            raise WeightsError(
                f"{name}: {where} {index} holds {int((~finite).sum())} NaN or Inf, "
                "must be finite; load the checkpoint again"
            )
