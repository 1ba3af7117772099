"""Blocks of 32 whole numbers with one float16 scale, and a float16 minimum where there is an offset.

Layouts are those of ggml's ``ggml-quants.c``, and so is the rounding, to the bit.
"""

from __future__ import annotations

import numpy as np

from tuner.formats.format import Bytes, Floats, Format
from tuner.formats.halves import FOUR, extreme, floats, half_bytes, inverse, join, rounded, split

_BLOCK = 32


def _from_q8_0(blocks: Bytes) -> Floats:
    return blocks[:, 2:].view(np.int8).astype(np.float32) * floats(blocks, 0)


def _to_q8_0(values: Floats) -> Bytes:
    scale = np.abs(values).max(axis=1, keepdims=True) / 127
    whole = rounded(values * inverse(scale), -127, 127)
    return np.hstack((half_bytes(scale), whole.astype(np.int8).view(np.uint8)))


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """Of each of 32 values [n, 32], as 16 or 0."""
    bits = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little")
    return bits << FOUR


def _numbers(blocks: Bytes, start: int, bits: int) -> Floats:
    """Whole numbers [n, 32] from a byte on: a fifth bit of each, if they have 5, then 4 bits of each."""
    fifth = 4 if bits == 5 else 0
    found = split(blocks[:, start + fifth :])
    if fifth:
        found |= _fifth_bits(blocks, start)
    return found.astype(np.float32)


def _packed(numbers: Bytes, bits: int) -> list[Bytes]:
    """The inverse of ``_numbers``."""
    fifth = np.packbits(numbers >> FOUR, axis=1, bitorder="little")
    return [fifth, join(numbers)] if bits == 5 else [join(numbers)]


def _symmetric(bits: int, name: str, block_bytes: int, ggml_type: int) -> Format:
    """d * (q - half): the value of the largest magnitude is -half."""
    half = 1 << bits - 1
    offset = np.float32(half)

    def decode(blocks: Bytes) -> Floats:
        return floats(blocks, 0) * (_numbers(blocks, 2, bits) - offset)

    def encode(values: Floats) -> Bytes:
        scale = extreme(values) / -offset
        numbers = np.trunc(values * inverse(scale) + (offset + np.float32(0.5)))
        whole = np.clip(numbers, 0, 2 * half - 1).astype(np.uint8)
        return np.hstack((half_bytes(scale), *_packed(whole, bits)))

    return Format(
        name=name, block=_BLOCK, block_bytes=block_bytes, group=_BLOCK, ggml_type=ggml_type,
        largest_error=1 / half, decode=decode, encode=encode, scales=lambda blocks: floats(blocks, 0),
    )  # fmt: skip


def _with_minimum(bits: int, name: str, block_bytes: int, ggml_type: int) -> Format:
    """d * q + m."""
    most = (1 << bits) - 1

    def decode(blocks: Bytes) -> Floats:
        return floats(blocks, 0) * _numbers(blocks, 4, bits) + floats(blocks, 2)

    def encode(values: Floats) -> Bytes:
        least = values.min(axis=1, keepdims=True)
        scale = (values.max(axis=1, keepdims=True) - least) / most
        numbers = np.trunc((values - least) * inverse(scale) + np.float32(0.5))
        whole = np.clip(numbers, 0, most).astype(np.uint8)
        return np.hstack((half_bytes(scale), half_bytes(least), *_packed(whole, bits)))

    return Format(
        name=name, block=_BLOCK, block_bytes=block_bytes, group=_BLOCK, ggml_type=ggml_type,
        largest_error=1 / most, decode=decode, encode=encode,
        scales=lambda blocks: floats(blocks, 0, 2),
    )  # fmt: skip


SIMPLE = (
    Format(
        name="q8_0", block=_BLOCK, block_bytes=34, group=_BLOCK, ggml_type=8, largest_error=1 / 254,
        decode=_from_q8_0, encode=_to_q8_0, scales=lambda blocks: floats(blocks, 0),
    ),
    _symmetric(4, "q4_0", 18, 2),
    _with_minimum(4, "q4_1", 20, 3),
    _symmetric(5, "q5_0", 22, 6),
    _with_minimum(5, "q5_1", 24, 7),
)  # fmt: skip
