"""Blocks of 32 values that 4 bits look up in a table, with one scale: mxfp4 and iq4_nl."""

from __future__ import annotations

import numpy as np

from tuner.formats.format import Bytes, Floats, Format
from tuner.formats.halves import extreme, floats, half_bytes, inverse, join, split

_BLOCK = 32
# Twice the values of E2M1 (Open Compute Project, "OCP Microscaling Formats (MX) Specification", 1.0).
_E2M1 = np.array((0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12), np.float32)
_MAGNITUDES = 8
# ggml's kvalues_iq4nl.
_IQ4_NL = np.array(
    (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113), np.float32
)
# 2^(254 - 128) * 12 is infinite; 255 is NaN.
_LARGEST_EXPONENT = 252


def _between(table: Floats) -> Floats:
    """Where the nearest entry of an ascending table changes to the next one."""
    return (table[1:] + table[:-1]) / np.float32(2)


def _half_power(exponent: Bytes) -> Floats:
    """2^(e - 128): half of what an E8M0 scale is, since the table's values are doubled."""
    return np.ldexp(np.float32(1), exponent.astype(np.int32) - 128)


def _mxfp4_scales(blocks: Bytes) -> Floats:
    exponent = blocks[:, :1]
    return np.where(exponent > _LARGEST_EXPONENT, np.float32(np.nan), _half_power(exponent))


def _from_mxfp4(blocks: Bytes) -> Floats:
    return _half_power(blocks[:, :1]) * _E2M1[split(blocks[:, 1:])]


def _to_mxfp4(values: Floats) -> Bytes:
    most = np.abs(values).max(axis=1, keepdims=True)
    exponent = np.where(most > 0, np.floor(np.log2(most)) + 125, 0)
    stored = np.clip(exponent, 0, 254).astype(np.uint8)
    size = np.abs(values) / _half_power(stored)
    index = np.searchsorted(_between(_E2M1[:_MAGNITUDES]), size).astype(np.uint8)
    index[(values < 0) & (index > 0)] += np.uint8(_MAGNITUDES)
    return np.hstack((stored, join(index)))


def _from_iq4_nl(blocks: Bytes) -> Floats:
    return floats(blocks, 0) * _IQ4_NL[split(blocks[:, 2:])]


def _to_iq4_nl(values: Floats) -> Bytes:
    scale = extreme(values) / _IQ4_NL[0]
    index = np.searchsorted(_between(_IQ4_NL), values * inverse(scale))
    return np.hstack((half_bytes(scale), join(index.astype(np.uint8))))


TABLES = (
    Format(
        name="mxfp4", block=_BLOCK, block_bytes=17, group=_BLOCK, ggml_type=39, largest_error=1 / 4,
        decode=_from_mxfp4, encode=_to_mxfp4, scales=_mxfp4_scales,
    ),
    Format(
        name="iq4_nl", block=_BLOCK, block_bytes=18, group=_BLOCK, ggml_type=20, largest_error=14 / 127,
        decode=_from_iq4_nl, encode=_to_iq4_nl, scales=lambda blocks: floats(blocks, 0),
    ),
)  # fmt: skip
