"""Data types: a row for each that activations and weights may have, with all that the package asks of it."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuner.errors import UsageError

_FLOAT, _BFLOAT = 2, 4  # DLDataTypeCode of https://dmlc.github.io/dlpack/latest/c_api.html


@dataclass(frozen=True, kw_only=True)
class DataType:
    """A data type of activations and weights.

    Attributes:
        name: as a Problem, Mojo's DType, torch and the service's documents write it.
        bytes: of one value.
        tolerance: largest relative error of a token's output that is right, where x and y are of this type.
        largest: its largest finite number.
        step: its smallest number above 0.
        scalar: the NumPy scalar type that holds a value, which ``package`` has.
        package: imported as soon as somebody asks for such an array, not before.
        dlpack: its type code and bits in DLPack.
        dot_feature: of a processor that multiplies pairs of it and adds them in float32; empty for none.
        upper_half: its bits are the upper half of a float32's, so that they will do, in uint16, where
            ``package`` is not installed and nothing is computed with them.
    """

    name: str
    bytes: int
    tolerance: float
    largest: float
    step: float
    scalar: str
    package: str = "numpy"
    dlpack: tuple[int, int]
    dot_feature: str = ""
    upper_half: bool = False

    @functools.cached_property
    def numpy(self) -> np.dtype[Any]:
        """NumPy's type of arrays of it. Raises UsageError where ``package`` is not installed."""
        try:
            module = importlib.import_module(self.package)
        except ImportError:
            message = f"{self.name}: NumPy has none of its own; pip install {self.package}"
            raise UsageError(message) from None
        found: np.dtype[Any] = np.dtype(getattr(module, self.scalar))
        return found

    @property
    def is_numpys(self) -> bool:
        """Whether NumPy has the type itself, so that DLPack and torch give it such arrays."""
        return self.package == "numpy"


# Tolerances: sums are float32 in all of them, where n products err by about sqrt(n) * 2^-24 of their size, 5e-6
# at n = 7168. 16-bit outputs are rounded once, by at most half a unit in the last place: 2^-9 (bfloat16),
# 2^-12 (float16, and its subnormals).
_ROWS = (
    DataType(
        name="float32", bytes=4, tolerance=1e-5, scalar="float32", dlpack=(_FLOAT, 32),
        largest=2.0**128 - 2.0**104, step=2.0**-149,
    ),
    DataType(
        name="bfloat16", bytes=2, tolerance=2.0**-8, scalar="bfloat16", package="ml_dtypes",
        largest=2.0**128 - 2.0**120, step=2.0**-133, dlpack=(_BFLOAT, 16), dot_feature="avx512bf16",
        upper_half=True,
    ),
    DataType(
        name="float16", bytes=2, tolerance=2.0**-10, scalar="float16", dlpack=(_FLOAT, 16),
        largest=2.0**16 - 2.0**5, step=2.0**-24,
    ),
)  # fmt: skip
DTYPES: dict[str, DataType] = {row.name: row for row in _ROWS}
