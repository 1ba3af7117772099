"""Float16 scales and 4-bit halves of bytes: what most formats of GGUF files are made of."""

from __future__ import annotations

import numpy as np

from tuner.formats.format import Bytes, Floats

LOW, FOUR = np.uint8(15), np.uint8(4)


def floats(blocks: Bytes, start: int, count: int = 1) -> Floats:
    """``count`` float16 numbers of each block from a byte on, in float32 [n, count]."""
    part = np.ascontiguousarray(blocks[:, start : start + 2 * count])
    return part.view("<f2").astype(np.float32)


def half_bytes(values: Floats) -> Bytes:
    """Numbers [n, s] as the bytes [n, 2 s] of float16."""
    return np.ascontiguousarray(values.astype("<f2")).view(np.uint8)


def split(packed: Bytes) -> Bytes:
    """Bytes [n, r, b] to [n, r, 2 b]: their low halves, then their high ones."""
    return np.concatenate((packed & LOW, packed >> FOUR), axis=-1)


def join(values: Bytes) -> Bytes:
    """The inverse of ``split``."""
    low, high = np.split(values, 2, axis=-1)
    return low & LOW | high << FOUR


def inverse(scale: Floats) -> Floats:
    """1 / scale, and 0 where that is no number: all values there are 0, or as good as."""
    found = 1 / scale
    return np.where(np.isfinite(found), found, np.float32(0))


def rounded(values: Floats, least: int, most: int) -> Floats:
    """Whole numbers, halves away from 0, within bounds."""
    size = np.abs(values)
    down = np.floor(size)
    up = down + np.floor(2 * (size - down))
    whole: Floats = np.clip(np.copysign(up, values), least, most)
    return whole


def extreme(values: Floats) -> Floats:
    """The value of the largest magnitude of each row, with its sign; the first of several. [..., 1]"""
    where = np.abs(values).argmax(axis=-1, keepdims=True)
    found: Floats = np.take_along_axis(values, where, axis=-1)
    return found
