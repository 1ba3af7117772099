"""Format: how a quantised type lays out a row of weights in blocks, each with scales of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.errors import FormatError

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]
# Values that are converted at once: what is made in between takes some 16 bytes a value.
_VALUES_AT_ONCE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Format:
    """A row of K values is K / ``block`` blocks of ``block_bytes`` bytes, one after the other.

    Attributes:
        name: as people write it: ``q4_0``.
        block: values of one block.
        block_bytes: bytes of one block.
        group: values that have a scale of their own, a divisor of ``block``.
        ggml_type: its number in a GGUF file.
        largest_error: the most by which rounding to nearest moves a value, over the largest magnitude of its
            block. The scales' own rounding comes on top where they are float16: 2^-11, as long as they are
            normal numbers.
        decode: blocks [n, block_bytes] to values [n, block].
        encode: values [n, block], finite, to blocks [n, block_bytes].
        scales: of blocks [n, block_bytes], all that values are made of beside integers, [n, s].
    """

    name: str
    block: int
    block_bytes: int
    group: int
    ggml_type: int
    largest_error: float
    decode: Callable[[Bytes], Floats]
    encode: Callable[[Floats], Bytes]
    scales: Callable[[Bytes], Floats]

    @property
    def bits(self) -> float:
        """Bits of one value, with its share of the scales."""
        return 8 * self.block_bytes / self.block

    def row_bytes(self, values: int) -> int:
        """Bytes of a row of so many values. Raises FormatError where they fill no whole blocks."""
        if values % self.block:
            least = values // self.block * self.block
            near = " or ".join(str(n) for n in (least, least + self.block) if n)
            raise FormatError(
                f"{self.name}: a row of {values} is no multiple of its block of {self.block}; "
                f"use {near}, or a format of smaller blocks"
            )
        return values // self.block * self.block_bytes

    def dequantize(self, raw: Bytes) -> Floats:
        """Values float32 [..., K] of blocks uint8 [..., row_bytes].

        Raises FormatError where rows are not of whole blocks.
        """
        blocks = self._blocks(raw)
        out = np.empty((len(blocks), self.block), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # scales of which ``unsound`` tells
            for part in self._parts(len(blocks)):
                out[part] = self.decode(blocks[part])
        return out.reshape(*raw.shape[:-1], raw.shape[-1] // self.block_bytes * self.block)

    def quantize(self, values: NDArray[Any]) -> Bytes:
        """Blocks uint8 [..., row_bytes] of float values [..., K], rounded to nearest.

        Raises FormatError where rows fill no whole blocks, a value is NaN or Inf, or so large that the
        scale of its block is.
        """
        row = self.row_bytes(values.shape[-1])
        rows = values.reshape(-1, self.block)
        out = np.empty((len(rows), self.block_bytes), np.uint8)
        for part in self._parts(len(rows)):
            given = np.ascontiguousarray(rows[part], np.float32)
            if not np.isfinite(given).all():
                raise FormatError(f"{self.name}: holds NaN or Inf, must be finite")
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                out[part] = self.encode(given)
            if not self._sound(out[part]).all():
                most = np.abs(given).max()
                raise FormatError(f"{self.name}: {most:g} is too large for its scales; scale it")
        return out.reshape(*values.shape[:-1], row)

    def unsound(self, raw: Bytes) -> int:
        """How many blocks of ``raw`` [..., row_bytes] have a scale that is NaN or infinite."""
        blocks = self._blocks(raw)
        parts = self._parts(len(blocks))
        return sum(int((~self._sound(blocks[part])).sum()) for part in parts)

    def _sound(self, blocks: Bytes) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(self.scales(blocks)).all(axis=1))

    def _blocks(self, raw: Bytes) -> Bytes:
        if raw.dtype != np.uint8 or raw.ndim < 1 or raw.shape[-1] % self.block_bytes:
            raise FormatError(
                f"{self.name}: has shape {list(raw.shape)} {raw.dtype}, must be uint8 with rows of "
                f"whole blocks of {self.block_bytes} bytes"
            )
        count = math.prod(raw.shape) // self.block_bytes
        return np.ascontiguousarray(raw).reshape(count, self.block_bytes)

    def _parts(self, blocks: int) -> Iterator[slice]:
        step = max(1, _VALUES_AT_ONCE // self.block)
        return (slice(start, start + step) for start in range(0, blocks, step))


def relative_error(exact: NDArray[Any], rounded: NDArray[Any]) -> float:
    """The size of a difference over that of the exact values, both by the Euclidean norm."""
    size = float(np.linalg.norm(exact.astype(np.float64)))
    off = float(np.linalg.norm(exact.astype(np.float64) - rounded))
    return off / size if size else off
