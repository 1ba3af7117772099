"""K-quants: blocks of 256 values in groups of 16 or 32, whose scales are whole numbers times a float16.

Layouts are those of ggml's ``ggml-quants.c``. Quantising rounds scales, then values, to nearest; ggml
searches for scales that make the error a little less.
"""

from __future__ import annotations

import numpy as np

from tuner.formats.format import Bytes, Floats, Format
from tuner.formats.halves import (
    FOUR,
    LOW,
    extreme,
    floats,
    half_bytes,
    inverse,
    join,
    rounded,
    split,
)

_BLOCK = 256
_GROUPS = 8
_GROUPS_Q6_K = 16
_MOST_SCALE = 63  # of six bits
_SIX, _UPPER, _TWO, _SHIFT = np.uint8(63), np.uint8(48), np.uint8(2), np.uint8(6)


def _six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """Scales and minima [n, 8] of 12 bytes: four of each whole, of the others 4 bits and 2."""
    first, second, rest = np.split(packed, 3, axis=1)
    scales = np.hstack((first & _SIX, rest & LOW | first >> _TWO & _UPPER))
    return scales, np.hstack((second & _SIX, rest >> FOUR | second >> _TWO & _UPPER))


def _to_six_bits(scales: Bytes, minima: Bytes) -> Bytes:
    """The inverse of ``_six_bits``."""
    first = scales[:, :4] | scales[:, 4:] >> FOUR << _SHIFT
    second = minima[:, :4] | minima[:, 4:] >> FOUR << _SHIFT
    return np.hstack((first, second, scales[:, 4:] & LOW | (minima[:, 4:] & LOW) << FOUR))


def _steps(blocks: Bytes) -> tuple[Floats, Floats]:
    """What each group [n, 8, 1] multiplies by, and what it takes away."""
    scales, minima = _six_bits(blocks[:, 4:16])
    step = floats(blocks, 0) * scales.astype(np.float32)
    offset = floats(blocks, 2) * minima.astype(np.float32)
    return step[:, :, None], offset[:, :, None]


def _fifth_bits(packed: Bytes) -> Bytes:
    """Byte i of 32 has the fifth bit of value i of each of 8 groups: [n, 8, 32], as 16 or 0."""
    shifts = np.arange(_GROUPS, dtype=np.uint8)[:, None]
    return (packed[:, None, :] >> shifts & np.uint8(1)) << FOUR


def _with_minima(bits: int, name: str, block_bytes: int, ggml_type: int) -> Format:
    """d * scale * q - dmin * minimum: q4_k and q5_k."""
    most = (1 << bits) - 1
    start = 48 if bits == 5 else 16  # of the values' four bits

    def decode(blocks: Bytes) -> Floats:
        step, offset = _steps(blocks)
        numbers = split(blocks[:, start:].reshape(-1, 4, 32)).reshape(-1, _GROUPS, 32)
        if bits == 5:
            numbers |= _fifth_bits(blocks[:, 16:48])
        return (step * numbers.astype(np.float32) - offset).reshape(-1, _BLOCK)

    def encode(values: Floats) -> Bytes:
        groups = values.reshape(-1, _GROUPS, 32)
        head = _head(groups, most)
        step, offset = _steps(head)
        numbers = rounded((groups + offset) * inverse(step), 0, most).astype(np.uint8)
        low = join(numbers.reshape(-1, 4, 64)).reshape(-1, 128)
        return np.hstack((head, *_upper(numbers, bits), low))

    # Half a step of the widest range, and half a unit of the six bits of the scale and of the minimum.
    largest_error = 1 / most + 1 / _MOST_SCALE + 1 / (2 * _MOST_SCALE)
    return Format(
        name=name, block=_BLOCK, block_bytes=block_bytes, group=32, ggml_type=ggml_type,
        largest_error=largest_error, decode=decode, encode=encode,
        scales=lambda blocks: floats(blocks, 0, 2),
    )  # fmt: skip


def _head(groups: Floats, most: int) -> Bytes:
    """The 16 bytes of the scales of groups [n, 8, 32]; a minimum is at most 0."""
    least = np.minimum(groups.min(axis=2), 0)
    step = (np.maximum(groups.max(axis=2), 0) - least) / most
    scale = half_bytes(step.max(axis=1, keepdims=True) / _MOST_SCALE)
    offset = half_bytes((-least).max(axis=1, keepdims=True) / _MOST_SCALE)
    stored = np.hstack((scale, offset))
    scales = rounded(step * inverse(floats(stored, 0)), 0, _MOST_SCALE).astype(np.uint8)
    minima = rounded(-least * inverse(floats(stored, 2)), 0, _MOST_SCALE).astype(np.uint8)
    return np.hstack((stored, _to_six_bits(scales, minima)))


def _upper(numbers: Bytes, bits: int) -> list[Bytes]:
    """The fifth bits of numbers [n, 8, 32], if there are any."""
    if bits == 4:
        return []
    shifts = np.arange(_GROUPS, dtype=np.uint8)[:, None]
    return [np.bitwise_or.reduce(numbers >> FOUR << shifts, axis=1)]


def _q6_k_steps(blocks: Bytes) -> Floats:
    scales = blocks[:, 192:208].view(np.int8).astype(np.float32)
    return (floats(blocks, 208) * scales)[:, :, None]


def _from_q6_k(blocks: Bytes) -> Floats:
    low = split(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & np.uint8(3)
    numbers = (low | upper << FOUR).reshape(-1, _GROUPS_Q6_K, 16).astype(np.float32) - np.float32(
        32
    )
    return (_q6_k_steps(blocks) * numbers).reshape(-1, _BLOCK)


def _to_q6_k(values: Floats) -> Bytes:
    groups = values.reshape(-1, _GROUPS_Q6_K, 16)
    step = extreme(groups)[:, :, 0] / np.float32(-32)
    stored = half_bytes(extreme(step) / np.float32(-128))
    scales = rounded(step * inverse(floats(stored, 0)), -128, 127)
    exact = (floats(stored, 0) * scales)[:, :, None]
    numbers = (rounded(groups * inverse(exact), -32, 31) + 32).astype(np.uint8)
    quarters = numbers.reshape(-1, 2, 4, 32)
    low = join(quarters.reshape(-1, 2, 128)).reshape(-1, 128)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    upper = np.bitwise_or.reduce(quarters >> FOUR << shifts, axis=2).reshape(-1, 64)
    return np.hstack((low, upper, scales.astype(np.int8).view(np.uint8), stored))


K_QUANTS = (
    _with_minima(4, "q4_k", 144, 12),
    _with_minima(5, "q5_k", 176, 13),
    Format(
        name="q6_k", block=_BLOCK, block_bytes=210, group=16, ggml_type=14,
        largest_error=1 / 32 + 1 / 128, decode=_from_q6_k, encode=_to_q6_k,
        scales=lambda blocks: floats(blocks, 208),
    ),
)  # fmt: skip
