"""Arrays from outside: NumPy, torch or anything with DLPack; bfloat16 as ml_dtypes has it, or as bits."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError


class _Dtypes(dict[str, np.dtype[Any]]):
    """NumPy's own types, and bfloat16 of ml_dtypes as soon as somebody asks for it."""

    def __missing__(self, name: str) -> np.dtype[Any]:
        if name != "bfloat16":
            raise KeyError(name)
        try:
            from ml_dtypes import bfloat16
        except ImportError:
            message = "bfloat16: NumPy has none of its own; pip install ml_dtypes"
            raise UsageError(message) from None
        self[name] = np.dtype(bfloat16)
        return self[name]


# Data types of weights and tokens by the name that a Problem gives them.
NUMPY_DTYPES: dict[str, np.dtype[Any]] = _Dtypes(
    float32=np.dtype(np.float32), float16=np.dtype(np.float16)
)


# How bfloat16 is held where there is no ml_dtypes: nothing is computed with it, so its bits will do.
BITS = np.dtype(np.uint16)


def held_dtype(name: str) -> np.dtype[Any]:
    """The type of arrays that a layer takes and gives; see BITS."""
    try:
        return NUMPY_DTYPES[name]
    except UsageError:
        return BITS


def dtype_name(dtype: np.dtype[Any]) -> str:
    """What to call a type in an error."""
    return "uint16 (the bits of bfloat16; others need ml_dtypes)" if dtype == BITS else str(dtype)


def float32_of(array: NDArray[Any]) -> NDArray[np.float32]:
    """The values in float32, C-contiguous: the same array where it is so already."""
    if array.dtype == BITS:
        return (array.astype(np.uint32, order="C") << 16).view(np.float32)
    return np.ascontiguousarray(array, np.float32)


def is_finite(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Which entries are neither NaN nor Inf."""
    if array.dtype == BITS:
        exponent = array & 0x7F80  # eight bits below the sign
        finite: NDArray[np.bool_] = exponent != 0x7F80
        return finite
    return np.asarray(np.isfinite(array))


def to_numpy(value: Any) -> NDArray[Any]:
    """The same memory as a NumPy array, where it is in CPU memory.

    Raises BufferError, RuntimeError, TypeError or ValueError when NumPy cannot read it.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach()  # torch does not export a tensor that wants a gradient
    if is_torch(value) and str(value.dtype) == "torch.bfloat16":
        bits = value.contiguous().view(sys.modules["torch"].int16)  # DLPack to NumPy has none
        return np.from_dlpack(bits).view(held_dtype("bfloat16"))
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)


def is_torch(value: Any) -> bool:
    """Whether a value is torch's, without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch"


def to_torch(array: NDArray[Any]) -> Any:
    """The same memory as a torch tensor; torch is imported already, or nobody would ask."""
    torch = sys.modules["torch"]
    if array.dtype == BITS or array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
