"""A stand-in for libcuda.so.1: device memory is this process's own, and launches are written down, not run.

It parses what it is given as the driver would, by the layouts of cuda.h, so it finds wrong addresses, numbers
and orders of calls. It computes nothing, but a test may act at each launch.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from ctypes import POINTER, c_char, c_int32, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from tests.programs import PARAMS, READ_PARAMS
from tuner.gpu import device as gpu_device
from tuner.gpu import driver as cuda
from tuner.gpu import scratch
from tuner.runtime import gpu_programs

INVALID, NO_DEVICE = 201, 101
_CODES = {0: b"CUDA_SUCCESS", 2: b"CUDA_ERROR_OUT_OF_MEMORY", 101: b"CUDA_ERROR_INVALID_DEVICE"}
_CODES |= {201: b"CUDA_ERROR_INVALID_CONTEXT", 218: b"CUDA_ERROR_INVALID_PTX"}
_CODES |= {900: b"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}
H100 = {16: 132, 38: 50 << 20, 75: 9, 76: 0, 81: 228 << 10}


class _Config(ctypes.Structure):
    _fields_: ClassVar = [
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared", c_uint),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("count", c_uint),
    ]


@dataclass(frozen=True)
class Launched:
    """A kernel that was started: its template's name, and its arguments by the names of the program."""

    kernel: str
    stream: int
    grid: tuple[int, ...]
    threads: int
    shared: int
    arguments: dict[str, int]
    captured: bool


@dataclass
class FakeDriver:
    """One GPU. A program that holds the text ``refuse`` does not load; ``run`` gets each launch."""

    label: str = "NVIDIA H100 80GB HBM3"
    facts: dict[int, int] = field(default_factory=lambda: dict(H100))
    launched: list[Launched] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    blocks: dict[int, Any] = field(default_factory=dict)
    capturing: set[int] = field(default_factory=set)
    current: int = 0
    mode: int = 0
    most_bytes: int = 1 << 34
    refuse: str = "\0"
    run: Callable[[Launched], None] = lambda launched: None
    entries: dict[int, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=lambda: PARAMS | {"moe_read": READ_PARAMS})

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        made = getattr(self, f"_{name.removesuffix('_v2')}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return int(made(*arguments) or 0)

        return call

    def _cuInit(self, flags: int) -> None: ...
    def _cuStreamCreate(self, stream: Any, flags: int) -> None: ...
    def _cuStreamSynchronize(self, stream: Any) -> None: ...
    def _cuCtxSynchronize(self) -> None: ...
    def _cuFuncSetAttribute(self, *arguments: Any) -> None: ...

    def _cuDeviceGet(self, device: Any, index: int) -> int:
        return 0 if index == 0 else NO_DEVICE

    def _cuGetErrorName(self, code: int, text: Any) -> None:
        _at(text).value = _CODES[code]

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> None:
        _at(context).value = 77

    def _cuCtxGetCurrent(self, context: Any) -> None:
        _at(context).value = self.current

    def _cuCtxSetCurrent(self, context: Any) -> None:
        self.current = context.value

    def _cuDeviceGetName(self, text: Any, size: int, device: Any) -> None:
        text.value = self.label.encode()

    def _cuDeviceGetAttribute(self, value: Any, number: int, device: Any) -> None:
        _at(value).value = self.facts[number]

    def _cuThreadExchangeStreamCaptureMode(self, mode: Any) -> None:
        before, self.mode = self.mode, _at(mode).value
        _at(mode).value = before

    def _cuStreamIsCapturing(self, stream: Any, status: Any) -> None:
        _at(status).value = int((stream.value or 0) in self.capturing)

    def _cuMemAlloc(self, address: Any, size: c_size_t) -> int:
        if self.capturing and self.mode != 2:
            return 900
        if sum(map(len, self.blocks.values())) + size.value > self.most_bytes:
            return 2
        room = (c_char * (size.value + 512))()
        place = -(-ctypes.addressof(room) // 512) * 512
        self.blocks[place] = room
        _at(address).value = place
        return 0

    def _cuMemFree(self, address: c_uint64) -> int:
        return 0 if self.blocks.pop(address.value, None) is not None else 1

    def _cuMemcpyHtoD(self, to: c_uint64, source: c_void_p, size: c_size_t) -> int:
        if self.current != 77:
            return INVALID
        ctypes.memmove(to.value, source.value, size.value)
        return 0

    def _cuMemcpyDtoH(self, to: c_void_p, source: c_uint64, size: c_size_t) -> None:
        ctypes.memmove(to.value, source.value, size.value)

    def _cuMemsetD8Async(self, to: c_uint64, byte: c_uint, size: c_size_t, stream: Any) -> None:
        ctypes.memset(to.value, byte.value, size.value)

    def _cuModuleLoadDataEx(self, module: Any, text: bytes, *options: Any) -> int:
        if self.refuse.encode() in text:
            return 218
        number = len(self.entries) + 1
        (entry,) = re.findall(rb"\.entry (\w+)\(", text)
        self.entries[number] = entry.decode()
        _at(module).value = number
        return 0

    def _cuModuleGetFunction(self, function: Any, module: c_void_p, name: bytes) -> None:
        assert self.entries[module.value or 0] == name.decode()
        _at(function).value = module.value

    def _cuLaunchKernelEx(self, config: Any, function: c_void_p, values: Any, extra: None) -> int:
        if self.current != 77:
            return INVALID
        given = ctypes.cast(config, POINTER(_Config)).contents
        kernel = re.sub(r"_[0-9a-f]{8}$", "", self.entries[function.value or 0])
        arguments = {
            name: (c_int32 if name in ("tokens", "routed") else c_uint64).from_address(place).value
            for name, place in zip(self.params[kernel].split(), values, strict=True)
        }
        stream = given.stream or 0
        launched = Launched(
            kernel, stream, tuple(given.grid), given.block[0], given.shared, arguments,
            stream in self.capturing,
        )  # fmt: skip
        self.launched.append(launched)
        self.run(launched)
        return 0

    def inside(self, address: int, size: int = 1) -> bool:
        """Whether these bytes are part of one block."""
        return any(
            place <= address and address + size <= ctypes.addressof(room) + len(room)
            for place, room in self.blocks.items()
        )


def _at(reference: Any) -> Any:
    return reference._obj


def plugged(monkeypatch: pytest.MonkeyPatch, **facts: Any) -> FakeDriver:
    """The stand-in in the driver's place, in a process that has opened no GPU yet."""
    driver = FakeDriver(**facts)
    monkeypatch.setattr(cuda, "_library", lambda: driver)
    monkeypatch.setattr(scratch, "_of_devices", {})
    monkeypatch.setattr(gpu_programs, "_loaded", {})
    gpu_device._opened.cache_clear()
    return driver
