"""Arrays from outside: NumPy, torch or anything with DLPack; bfloat16 as ml_dtypes has it, or as bits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError
from tuner.problem.dtypes import DTYPES


class _NumpyDtypes(Mapping[str, np.dtype[Any]]):
    """The column of DTYPES. Raises UsageError where a type's package is not installed."""

    def __getitem__(self, name: str) -> np.dtype[Any]:
        return DTYPES[name].numpy

    def __iter__(self) -> Iterator[str]:
        return iter(DTYPES)

    def __len__(self) -> int:
        return len(DTYPES)


# Data types of weights and tokens by the name that a Problem gives them.
NUMPY_DTYPES: Mapping[str, np.dtype[Any]] = _NumpyDtypes()
# How bfloat16 is held where there is no ml_dtypes: nothing is computed with it, so its bits will do.
BITS = np.dtype(np.uint16)


def held_dtype(name: str) -> np.dtype[Any]:
    """The type of arrays that a layer takes and gives; see BITS.

    Raises UsageError where a type's package is not installed and its bits will not do.
    """
    try:
        return NUMPY_DTYPES[name]
    except UsageError:
        if not DTYPES[name].upper_half:
            raise
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
    """The same memory as a NumPy array, where it is in CPU memory and holds the values as they are.

    Raises BufferError, RuntimeError, TypeError or ValueError when NumPy cannot read it.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "detach"):
        value = value.detach()  # torch does not export a tensor that wants a gradient
    if is_torch(value):
        if value.is_neg():  # the memory holds the other sign, of which DLPack says nothing
            value = value.resolve_neg()
        known = DTYPES.get(str(value.dtype).removeprefix("torch."))
        if known is not None and not known.is_numpys:
            bits = getattr(sys.modules["torch"], f"int{8 * known.bytes}")
            return np.from_dlpack(value.contiguous().view(bits)).view(held_dtype(known.name))
    return np.from_dlpack(value) if hasattr(value, "__dlpack__") else np.asarray(value)


def argument_to_numpy(name: str, value: Any) -> NDArray[Any]:
    """The same of an argument. Raises UsageError, with its name, where NumPy cannot read it."""
    try:
        return to_numpy(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        why = " ".join(str(error).splitlines()[:1])
        raise UsageError(
            f"{name}: is a {type(value).__name__} that NumPy cannot read ({why}); "
            "give a dense array in CPU memory"
        ) from error


def is_torch(value: Any) -> bool:
    """Whether a value is torch's, without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch"


def to_torch(array: NDArray[Any]) -> Any:
    """The same memory as a torch tensor; torch is imported already, or nobody would ask."""
    torch = sys.modules["torch"]
    known = DTYPES.get("bfloat16" if array.dtype == BITS else array.dtype.name)
    if known is None or known.is_numpys:
        return torch.from_numpy(array)
    bits = array.view(f"int{8 * known.bytes}")  # torch reads no types of other packages
    return torch.from_numpy(bits).view(getattr(torch, known.name))
