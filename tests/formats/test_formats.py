"""Formats: bit for bit what the gguf package makes of the same bytes, and errors within their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.properties import tried
from tuner.errors import FormatError
from tuner.formats import FORMATS, Format, relative_error
from tuner.formats.format import Bytes, Floats

EVERY = pytest.mark.parametrize("name", list(FORMATS))
# For which the gguf package has a quantiser of its own.
QUANTISED = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4")


def peer(name: str) -> tuple[Any, Any]:
    """gguf's functions, and its number of a type."""
    gguf = pytest.importorskip("gguf")
    return gguf.quants, gguf.GGMLQuantizationType[name.upper()]


def values(columns: int = 512) -> Floats:
    """Rows of all kinds that a quantiser meets."""
    x = np.random.default_rng(0).standard_normal((24, columns), dtype=np.float32)
    x[1], x[2, :32], x[3] = 0, 0, -np.abs(x[3])
    x[4], x[5], x[6] = np.abs(x[4]), x[5] * 1e-3, x[6] * 1e4
    x[7, 5] = 1000
    x[8], x[9] = 0.5, np.tile(np.float32([1, -1]), columns // 2)
    return x


def blocks(f: Format, seed: int = 0) -> Bytes:
    """Rows of any bytes, of which most are sound, and all of ones and of zeros."""
    raw = np.random.default_rng(seed).integers(0, 256, (40, 4 * f.block_bytes), np.uint8)
    raw[0], raw[1] = 0, 255
    return raw


@EVERY
def test_sizes_are_those_of_gguf(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    f, number = FORMATS[name], gguf.GGMLQuantizationType[name.upper()]
    assert gguf.GGML_QUANT_SIZES[number] == (f.block, f.block_bytes)
    assert int(number) == f.ggml_type


@EVERY
def test_dequantises_any_bytes_as_gguf_does(name: str) -> None:
    quants, number = peer(name)
    raw = blocks(FORMATS[name])
    with np.errstate(all="ignore"):
        right = quants.dequantize(raw, number)
    found = FORMATS[name].dequantize(raw)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(right))
    kept = ~np.isnan(right)
    np.testing.assert_array_equal(found[kept].view(np.uint32), right[kept].view(np.uint32))


@pytest.mark.parametrize("name", QUANTISED)
def test_quantises_as_gguf_does(name: str) -> None:
    quants, number = peer(name)
    np.testing.assert_array_equal(
        FORMATS[name].quantize(values()), quants.quantize(values(), number)
    )


@EVERY
def test_rounding_stays_within_the_bound_of_the_format(name: str) -> None:
    f, x = FORMATS[name], values()
    off = np.abs(f.dequantize(f.quantize(x)) - x).reshape(-1, f.block).max(axis=1)
    most = np.abs(x).reshape(-1, f.block).max(axis=1)
    assert (off <= (f.largest_error + 2.0**-9) * most).all()
    normal = relative_error(x[10:], f.dequantize(f.quantize(x[10:])))
    assert 0.2 * f.largest_error < normal < 1.5 * f.largest_error


@EVERY
def test_what_was_rounded_is_rounded_to_itself(name: str) -> None:
    """Within a unit of the scales, which follow from values that were rounded themselves."""
    f = FORMATS[name]
    once = f.dequantize(f.quantize(values()))
    assert relative_error(once, f.dequantize(f.quantize(once))) < 0.3 * f.largest_error


@EVERY
def test_blocks_of_zeros_and_of_the_least_numbers_are_zeros(name: str) -> None:
    f = FORMATS[name]
    x = np.zeros((3, f.block), np.float32)
    x[1], x[2] = 2.0**-149, -(2.0**-140)
    found = f.dequantize(f.quantize(x))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= 2.0**-126


@EVERY
def test_any_leading_axes(name: str) -> None:
    f = FORMATS[name]
    x = values(f.block * 2)[:12]
    raw = f.quantize(x.reshape(2, 3, 2, -1))
    assert raw.shape == (2, 3, 2, f.row_bytes(f.block * 2))
    np.testing.assert_array_equal(raw.reshape(12, -1), f.quantize(x))
    np.testing.assert_array_equal(f.dequantize(raw).reshape(12, -1), f.dequantize(f.quantize(x)))
    strided = np.asfortranarray(raw.reshape(12, -1))
    np.testing.assert_array_equal(f.dequantize(strided), f.dequantize(f.quantize(x)))


def test_long_rows_are_converted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    f, x = FORMATS["q4_k"], values(1024)
    whole = f.quantize(x)
    monkeypatch.setattr("tuner.formats.format._VALUES_AT_ONCE", 1000)
    np.testing.assert_array_equal(f.quantize(x), whole)
    np.testing.assert_array_equal(f.dequantize(whole[::2]), f.dequantize(whole)[::2])


@EVERY
def test_rows_that_fill_no_whole_blocks(name: str) -> None:
    f = FORMATS[name]
    with pytest.raises(FormatError, match=rf"{name}: a row of {f.block + 8} .* use {f.block} or"):
        f.quantize(np.zeros((2, f.block + 8), np.float32))
    with pytest.raises(FormatError, match=rf"must be uint8 .* {f.block_bytes} bytes"):
        f.dequantize(np.zeros((2, f.block_bytes + 1), np.uint8))
    with pytest.raises(FormatError, match="must be uint8"):
        f.dequantize(np.zeros((2, f.block_bytes), np.int8))


@EVERY
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_are_refused(name: str, value: float) -> None:
    x = values(256)
    x[3, 7] = value
    with pytest.raises(FormatError, match=f"{name}: holds NaN or Inf"):
        FORMATS[name].quantize(x)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"mxfp4"}))
def test_values_beyond_a_float16_scale_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match=r"1e\+30 is too large"):
        FORMATS[name].quantize(np.full((1, 256), [1e30] + [0] * 255, np.float32))


@EVERY
def test_scales_that_are_not_finite_are_counted(name: str) -> None:
    f = FORMATS[name]
    raw = f.quantize(values())
    assert f.unsound(raw) == 0
    place = {"mxfp4": 0, "q6_k": 209}.get(name, 1)
    raw[3, place] = 255  # NaN
    raw[5, f.block_bytes + place] = 255 if name == "mxfp4" else 0x7C
    assert f.unsound(raw) == 2


@tried(100)
@given(st.sampled_from(list(FORMATS)), st.binary(min_size=0, max_size=999), st.integers(0, 9))
def test_sound_blocks_of_any_bytes_are_finite(name: str, data: bytes, rows: int) -> None:
    f = FORMATS[name]
    raw = np.frombuffer((data + bytes(rows * f.block_bytes))[: rows * f.block_bytes], np.uint8)
    found = f.dequantize(raw.reshape(rows, f.block_bytes))
    assert found.shape == (rows, f.block)
    if f.unsound(raw.reshape(rows, f.block_bytes)) == 0:
        assert np.isfinite(found).all()


def test_the_error_of_nothing() -> None:
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.array([3.0, 4.0]), np.array([3.0, 4.5])) == 0.1
