"""The CUDA driver through ctypes: memory, modules, launches, events, graphs. The only file that knows it.

It uses a device's primary context, which torch and others share. Nothing but the driver's own
``libcuda.so.1`` is needed. Device addresses and streams are plain integers; stream 0 is the default one.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import DeviceError, KernelError
from tuner.gpu.launch import Function, Launch

_MULTIPROCESSORS, _L2_BYTES, _SHARED_BYTES = 16, 38, 81  # CUdevice_attribute
_CAPABILITY = 75, 76
_MAX_DYNAMIC_SHARED = 8  # CUfunction_attribute
_OUT_OF_MEMORY, _OTHER_PTX = 2, 222  # CUresult
_CAPTURE_RELAXED = 2
_LOG_BUFFER, _LOG_BYTES = 5, 6  # CUjit_option: the error log and its size

Address = int


class CudaError(KernelError):
    """The driver refused a call, or an earlier kernel failed; ``code`` is its CUresult."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(
            f"no NVIDIA driver is here ({error}); run this where one is, or leave the device out for the CPU"
        ) from error


class Device:
    """One GPU. Raises DeviceError where there is none, and CudaError wherever the driver says no.

    ``lock`` is for whoever shares something of the device between threads: this class does not take it.
    """

    def __init__(self, index: int = 0) -> None:
        self._cu = _library()
        self.index, self.lock = index, threading.Lock()
        self._device, self._context = c_int(), c_void_p()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", byref(self._device), index)
        except CudaError as error:
            raise DeviceError(
                f"cuda:{index}: the driver has no such GPU ({error}); "
                "`nvidia-smi` lists those that are there, CUDA_VISIBLE_DEVICES hides some"
            ) from error
        self._call("cuDevicePrimaryCtxRetain", byref(self._context), self._device)
        if not self._current().value:  # else another GPU may be in use: see `current`
            self._call("cuCtxSetCurrent", self._context)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cu, name)(*arguments)
        if code != 0:
            raise self.error(name, code)

    def error(self, name: str, code: int) -> CudaError:
        """What a call's answer says."""
        text = c_char_p()
        self._cu.cuGetErrorName(code, byref(text))
        return CudaError(f"{name}: {(text.value or b'?').decode()} ({code})", code)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """This thread works on this device; afterwards on the one that it worked on before, if any."""
        before = self._current()
        if before.value == self._context.value:
            yield
            return
        try:  # from here on, as a signal's exception may come right after the driver's call
            self._call("cuCtxSetCurrent", self._context)
            yield
        finally:
            if before.value:
                self._call("cuCtxSetCurrent", before)

    def _current(self) -> c_void_p:
        context = c_void_p()
        self._call("cuCtxGetCurrent", byref(context))
        return context

    @contextlib.contextmanager
    def _within_captures(self) -> Iterator[None]:
        """What is done here is no part of a graph that this thread may be capturing."""
        mode = c_int(_CAPTURE_RELAXED)  # afterwards the former one
        try:
            self._call("cuThreadExchangeStreamCaptureMode", byref(mode))
            yield
        finally:
            if mode.value != _CAPTURE_RELAXED:
                self._call("cuThreadExchangeStreamCaptureMode", byref(mode))

    def is_capturing(self, stream: int) -> bool:
        """Whether what goes to a stream becomes part of a graph."""
        status = c_int()
        self._call("cuStreamIsCapturing", c_void_p(stream), byref(status))
        return status.value != 0

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

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one multiprocessor."""
        return self._attribute(_SHARED_BYTES)

    @property
    def arch(self) -> str:
        """As the compiler names it; from Hopper on with the features of this generation alone: sm_90a."""
        major, minor = map(self._attribute, _CAPABILITY)
        return f"sm_{major}{minor}{'a' if major >= 9 else ''}"

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call("cuDeviceGetAttribute", byref(value), number, self._device)
        return value.value

    def alloc(self, size: int) -> Address:
        """New memory, also while a graph is captured. Raises CudaError where there is not enough."""
        address = c_uint64()
        try:
            with self._within_captures():
                self._call("cuMemAlloc_v2", byref(address), c_size_t(max(size, 1)))
        except CudaError as error:
            if error.code != _OUT_OF_MEMORY:
                raise
            mend = "free some; torch.cuda.empty_cache() gives back what torch keeps"
            message = f"cuda:{self.index}: {size >> 20} MiB cannot be had; {mend}"
            raise CudaError(message, error.code) from error
        return address.value

    def free(self, address: Address) -> None:
        """Waits for the work that uses it."""
        with self._within_captures():
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
            with self._within_captures():
                self._call("cuModuleLoadDataEx", byref(module), ptx.encode(), 2, options, values)
        except CudaError as error:
            said = log.value.decode(errors="replace").strip().splitlines()
            told = said[0] if said else "no word from the driver"
            mend = "; the driver is older than this PTX: upgrade it"
            message = f"{error}: {told}{mend if error.code == _OTHER_PTX else ''}"
            raise CudaError(message, error.code) from error
        self._call("cuModuleGetFunction", byref(handle), module, entry.encode())
        if shared_bytes > 48 << 10:
            self._call("cuFuncSetAttribute", handle, _MAX_DYNAMIC_SHARED, shared_bytes)
        return Function(handle, threads, shared_bytes)

    def launch(self, function: Function, grid: tuple[int, int], arguments: Sequence[Any]) -> Launch:
        """A kernel on its arguments, which are ctypes values; nothing is started yet."""
        return Launch(self._cu.cuLaunchKernelEx, self.error, function, grid, arguments)

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
        try:
            work(stream)
        except BaseException:  # the stream would take up what comes next, and run none of it
            self._cu.cuStreamEndCapture(c_void_p(stream), byref(graph))
            raise
        self._call("cuStreamEndCapture", c_void_p(stream), byref(graph))
        self._call("cuGraphInstantiateWithFlags", byref(ready), graph, c_uint64(0))
        self._call("cuGraphDestroy", graph)
        return ready

    def replay(self, graph: c_void_p, stream: int) -> None:
        self._call("cuGraphLaunch", graph, c_void_p(stream))
