"""The CUDA driver through ctypes: memory, modules, launches, events, graphs. The only file that knows it.

It uses a device's primary context, which torch and others share. Nothing but the driver's own
``libcuda.so.1`` is needed. Device addresses are plain integers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tuner.errors import KernelError

_MULTIPROCESSORS, _L2_BYTES = 16, 38  # CUdevice_attribute
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_CAPTURE_RELAXED = 2
_EARLY_LAUNCH = 6  # CUlaunchAttributeID: programmatic stream serialization
_LOG_BUFFER, _LOG_BYTES = 5, 6  # CUjit_option: the error log and its size

Address = int


class CudaError(KernelError):
    """The driver refused a call, or an earlier kernel failed."""


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise CudaError(f"libcuda.so.1: {error}; run this where an NVIDIA driver is") from error


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, padding, and a union of 64 bytes whose first number is used here."""

    _fields_: ClassVar = [("id", c_int), ("pad", c_int), ("value", c_int * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_: ClassVar = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", c_uint),
    ]


class Function:
    """A loaded kernel."""

    def __init__(self, handle: c_void_p, threads: int, shared_bytes: int) -> None:
        self.handle, self.threads, self.shared_bytes = handle, threads, shared_bytes


class Device:
    """One GPU. Raises CudaError where there is none, and wherever the driver says no."""

    def __init__(self, index: int = 0) -> None:
        self._cu = _library()
        self._call("cuInit", 0)
        self._device = c_int()
        self._call("cuDeviceGet", byref(self._device), index)
        self._context = c_void_p()
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cu, name)(*arguments)
        if code != 0:
            text = c_char_p()
            self._cu.cuGetErrorName(code, byref(text))
            said = (text.value or b"?").decode()
            raise CudaError(f"{name}: {said} ({code})")

    @property
    def name(self) -> str:
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, 256, self._device)
        return text.value.decode()

    @property
    def driver_version(self) -> int:
        """As the driver counts: 13000 is CUDA 13.0."""
        version = c_int()
        self._call("cuDriverGetVersion", byref(version))
        return version.value

    @property
    def memory_bytes(self) -> int:
        size = c_size_t()
        self._call("cuDeviceTotalMem_v2", byref(size), self._device)
        return size.value

    @property
    def multiprocessors(self) -> int:
        return self._attribute(_MULTIPROCESSORS)

    @property
    def l2_bytes(self) -> int:
        return self._attribute(_L2_BYTES)

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), number, self._device)
        return value.value

    def alloc(self, size: int) -> Address:
        address = c_uint64()
        self._call("cuMemAlloc_v2", byref(address), c_size_t(max(size, 1)))
        return address.value

    def free(self, address: Address) -> None:
        self._call("cuMemFree_v2", c_uint64(address))

    def upload(self, array: NDArray[Any], to: Address | None = None) -> Address:
        """Copies an array to the device, into new memory unless ``to`` is given; returns where it is."""
        array = np.ascontiguousarray(array)
        to = self.alloc(array.nbytes) if to is None else to
        if array.nbytes:
            self._call(
                "cuMemcpyHtoD_v2", c_uint64(to), c_void_p(array.ctypes.data), c_size_t(array.nbytes)
            )
        return to

    def download(self, address: Address, array: NDArray[Any]) -> None:
        """Fills a contiguous array from the device; waits for all work before."""
        if array.nbytes:
            self._call(
                "cuMemcpyDtoH_v2",
                c_void_p(array.ctypes.data),
                c_uint64(address),
                c_size_t(array.nbytes),
            )

    def fill(self, address: Address, byte: int, size: int, stream: int = 0) -> None:
        self._call(
            "cuMemsetD8Async", c_uint64(address), c_uint(byte), c_size_t(size), c_void_p(stream)
        )

    def copy(self, to: Address, source: Address, size: int, stream: int = 0) -> None:
        self._call(
            "cuMemcpyDtoDAsync_v2", c_uint64(to), c_uint64(source), c_size_t(size), c_void_p(stream)
        )

    def load(self, ptx: str, entry: str, threads: int, shared_bytes: int) -> Function:
        """Compiles PTX in the driver. Raises CudaError with the driver's first error line."""
        log = ctypes.create_string_buffer(4096)
        options = (c_uint * 2)(_LOG_BUFFER, _LOG_BYTES)
        values = (c_void_p * 2)(ctypes.cast(log, c_void_p), c_void_p(len(log)))
        module, handle = c_void_p(), c_void_p()
        try:
            self._call("cuModuleLoadDataEx", byref(module), ptx.encode(), 2, options, values)
        except CudaError as error:
            said = log.value.decode(errors="replace").strip().splitlines()
            raise CudaError(f"{error}: {said[0] if said else 'no word from the driver'}") from error
        self._call("cuModuleGetFunction", byref(handle), module, entry.encode())
        if shared_bytes > 48 << 10:
            self._call("cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED, shared_bytes)
        return Function(handle, threads, shared_bytes)

    def launch(
        self, function: Function, grid: tuple[int, int], arguments: Sequence[Any], stream: int = 0
    ) -> None:
        """Starts a kernel; ``arguments`` are ctypes values. The device may launch it before the one in front
        of it has ended: the kernel itself waits."""
        pointers = (c_void_p * len(arguments))(*(ctypes.addressof(a) for a in arguments))
        early = _Attribute(_EARLY_LAUNCH, 0, (c_int * 16)(1))
        config = _Config(
            (c_uint * 3)(*grid, 1),
            (c_uint * 3)(function.threads, 1, 1),
            function.shared_bytes,
            c_void_p(stream),
            ctypes.pointer(early),
            1,
        )
        self._call("cuLaunchKernelEx", byref(config), function.handle, pointers, None)

    def stream(self) -> int:
        handle = c_void_p()
        self._call("cuStreamCreate", byref(handle), 1)  # does not wait for the default stream
        return handle.value or 0

    def wait(self, stream: int | None = None) -> None:
        """Until the stream's work has ended, or all; raises CudaError where a kernel failed."""
        if stream is None:
            self._call("cuCtxSynchronize")
        else:
            self._call("cuStreamSynchronize", c_void_p(stream))

    def event(self) -> c_void_p:
        handle = c_void_p()
        self._call("cuEventCreate", byref(handle), 0)
        return handle

    def record(self, event: c_void_p, stream: int) -> None:
        self._call("cuEventRecord", event, c_void_p(stream))

    def elapsed_ns(self, start: c_void_p, end: c_void_p) -> float:
        milliseconds = c_float()
        self._call("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value * 1e6

    def graph(self, work: Callable[[int], None], stream: int) -> c_void_p:
        """What ``work(stream)`` launches, as one graph that ``replay`` launches at once."""
        graph, ready = c_void_p(), c_void_p()
        self._call("cuStreamBeginCapture_v2", c_void_p(stream), _CAPTURE_RELAXED)
        work(stream)
        self._call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        self._call("cuGraphInstantiateWithFlags", byref(ready), graph, c_uint64(0))
        self._call("cuGraphDestroy", graph)
        return ready

    def replay(self, graph: c_void_p, stream: int) -> None:
        self._call("cuGraphLaunch", graph, c_void_p(stream))
