"""Arrays on a GPU from outside, torch or anything with DLPack: where they lie, without a copy.

torch is the caller's: nothing here imports it. https://dmlc.github.io/dlpack/latest/c_api.html has the
layout that DLPack gives.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
from collections.abc import Sequence
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.errors import UsageError
from tuner.gpu.driver import Device
from tuner.problem.arrays import NUMPY_DTYPES, is_torch
from tuner.problem.dtypes import DTYPES

# Kernels read and write 16 bytes at a time.
ALIGNMENT = 16
_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_INT32 = (0, 32)  # of DLPack: code and bits
_LEGACY_STREAM, _NOBODY = 1, -1  # what DLPack calls stream 0, and that no stream has to wait

_pointer = ctypes.PYFUNCTYPE(c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Tensor(ctypes.Structure):
    """DLTensor, the first member of a DLManagedTensor."""

    _fields_: ClassVar = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Borrowed(NamedTuple):
    """An array of somebody else's: its address, what it holds, and the GPU where it lies (None: elsewhere)."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    device: int | None
    contiguous: bool

    def describe(self) -> str:
        """As it stands in a message."""
        where = "off the GPU" if self.device is None else f"on cuda:{self.device}"
        order = "" if self.contiguous else ", not C-contiguous"
        return f"has shape {list(self.shape)} {self.dtype} {where}{order}"


def borrow(name: str, value: Any, stream: int | None) -> Borrowed:
    """What a value is. Its producer's work on it comes before what ``stream`` gets next; with None, and for
    torch's values, the caller sees to that. Raises UsageError where it is no array."""
    if is_torch(value):
        device = value.device
        if value.is_neg():
            raise UsageError(f"{name}: has its negative bit set; give {name}.resolve_neg()")
        return Borrowed(
            value.data_ptr(),
            tuple(value.shape),
            str(value.dtype).removeprefix("torch."),
            device.index if device.type == "cuda" else None,
            value.is_contiguous(),
        )
    if not hasattr(value, "__dlpack_device__"):
        raise UsageError(
            f"{name}: is a {type(value).__name__}, must be a torch tensor on the GPU or have DLPack"
        )
    kind, index = value.__dlpack_device__()
    if int(kind) not in (_CUDA, _CUDA_MANAGED):
        shape = tuple(getattr(value, "shape", ()))
        return Borrowed(0, shape, str(getattr(value, "dtype", "?")), None, True)
    follows = _NOBODY if stream is None else stream or _LEGACY_STREAM
    return _read(value.__dlpack__(stream=follows), int(index))


def _read(capsule: Any, index: int) -> Borrowed:
    """A capsule's array. The capsule stays its producer's: it is read, not taken over."""
    tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = [tensor.strides[i] for i in range(tensor.ndim)] if tensor.strides else None
    return Borrowed(
        (tensor.data or 0) + tensor.byte_offset,
        shape,
        _dtype_name(tensor.code, tensor.bits),
        index,
        strides is None or _in_order(shape, strides),
    )


def _dtype_name(code: int, bits: int) -> str:
    if (code, bits) == _INT32:
        return "int32"
    names = (row.name for row in DTYPES.values() if row.dlpack == (code, bits))
    return next(names, f"type {code} of {bits} bits")


def _in_order(shape: Sequence[int], strides: Sequence[int]) -> bool:
    wanted = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != wanted:
            return False
        wanted *= length
    return True


def stream_of(device: int, value: Any, stream: Any) -> int:
    """The handle of a stream: given as a number, by torch, or by anything with ``__cuda_stream__``.

    None is torch's current one for a torch value, else the default stream. Raises UsageError for others.
    """
    if stream is None:
        return _torch_stream(device) if is_torch(value) else 0
    if isinstance(stream, int):
        return stream
    if hasattr(stream, "cuda_stream"):
        return int(stream.cuda_stream)
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    raise UsageError(
        f"stream: is a {type(stream).__name__}, must be a CUDA stream's handle or a torch stream"
    )


def _torch_stream(device: int) -> int:
    return int(sys.modules["torch"].cuda.current_stream(device).cuda_stream)


def empty(device: int, stream: int, shape: Sequence[int], dtype: str) -> Any:
    """A new torch tensor from torch's own memory, which goes back to it in the order of this stream.

    Inside a torch graph's capture the memory is the graph's.
    """
    torch = sys.modules["torch"]
    place = contextlib.nullcontext()
    if stream != _torch_stream(device):
        place = torch.cuda.stream(torch.cuda.ExternalStream(stream, device=f"cuda:{device}"))
    with place:
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=f"cuda:{device}")


def to_host(name: str, value: Any, device: Device) -> Any:
    """An array in CPU memory where it lies on a GPU; anything else as it is. Waits for it."""
    if is_torch(value):
        return value.detach().cpu() if value.is_cuda else value
    if value is None or isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return value
    found = borrow(name, value, 0)
    if found.device is None:
        return value
    return _downloaded(name, found, device)


def _downloaded(name: str, found: Borrowed, device: Device) -> NDArray[Any]:
    if (
        found.device != device.index
        or not found.contiguous
        or found.dtype not in ("int32", *DTYPES)
    ):
        raise UsageError(f"{name}: {found.describe()}, must be C-contiguous on cuda:{device.index}")
    dtype = np.dtype(np.int32) if found.dtype == "int32" else NUMPY_DTYPES[found.dtype]
    array = np.empty(math.prod(found.shape), dtype)
    device.download(found.address, array)
    return array.reshape(found.shape)
