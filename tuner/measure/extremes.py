"""Extreme tokens among good ones: NaN, infinities, huge, denormal, and tokens whose scores are all equal.

A token that is not finite is spoiled: k different experts are chosen for it and its output is NaN. Whatever
a token is, the outputs of the others have the very bits that they have without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.dtypes import DTYPES, DataType

# The load of a case whose first tokens are extreme; the router decides.
LOAD = "extreme"
# So many times a normal token a layer must still be right, where its data type holds the products.
_MOST_SCALE = 1e10


def _spoilt(value: float, everywhere: bool) -> Callable[[NDArray[np.float32], DataType], None]:
    """Puts a value into all elements of a token, or into one."""

    def spoil(token: NDArray[np.float32], dtype: DataType) -> None:
        token[slice(None) if everywhere else len(token) // 3] = value

    return spoil


def _huge(token: NDArray[np.float32], dtype: DataType) -> None:
    """Gate times up, of some times the token's size each, are finite."""
    token *= np.float32(scale_of(dtype))


def _overflowing(token: NDArray[np.float32], dtype: DataType) -> None:
    """Finite itself; what is computed from it may not be."""
    token[:] = np.sign(token) * np.float32(dtype.largest)


def _denormal(token: NDArray[np.float32], dtype: DataType) -> None:
    token *= np.float32(64 * dtype.step)


def _zero(token: NDArray[np.float32], dtype: DataType) -> None:
    """All scores are equal, but for biases."""
    token[:] = 0


# What becomes of the first tokens of a batch, by place.
_ROWS = {
    0: _spoilt(np.nan, everywhere=True),
    2: _spoilt(np.inf, everywhere=False),
    3: _spoilt(-np.nan, everywhere=False),
    5: _spoilt(-np.inf, everywhere=True),
    6: _huge,
    7: _denormal,
    9: _zero,
    10: _overflowing,
    12: _spoilt(np.nan, everywhere=False),
    13: _zero,
}
# A batch of so many tokens has all of them.
TOKENS = max(_ROWS) + 2


def scale_of(dtype: DataType) -> float:
    """How many times a normal token a huge one is: its square, and some more, is below the largest number."""
    return min(_MOST_SCALE, math.sqrt(dtype.largest) / 16)


def with_extremes(problem: Problem, x: NDArray[np.float32]) -> NDArray[Any]:
    """Tokens [T, D] of the problem's data type, made of normal float32 ones."""
    dtype = DTYPES[problem.dtype]
    for place, change in _ROWS.items():
        if place < len(x):
            change(x[place], dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # float16 has no such numbers
        return x.astype(NUMPY_DTYPES[problem.dtype])


def spoiled(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Which tokens of x [T, D] hold NaN or an infinity."""
    return np.asarray(~np.isfinite(x.astype(np.float32, copy=False)).all(axis=1))


def overflowing(x: NDArray[Any]) -> NDArray[np.bool_]:
    """Which finite tokens are so large that a right kernel may say NaN or an infinity instead of the answer."""
    size = np.abs(x.astype(np.float64)).max(axis=1)
    return np.asarray(np.isfinite(size) & (size > 100 * scale_of(DTYPES[x.dtype.name])))


def without_extremes(x: NDArray[Any]) -> NDArray[Any]:
    """The same batch with a token of zeros for each that is spoiled."""
    return np.where(spoiled(x)[:, None], np.zeros((), x.dtype), x)
