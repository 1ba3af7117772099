"""Launches of the CUDA driver: a kernel with all that its start needs, made once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import byref, c_int, c_uint, c_void_p
from typing import Any, ClassVar

_EARLY_LAUNCH = 6  # CUlaunchAttributeID: programmatic stream serialization


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


class Launch:
    """A kernel with its grid and arguments, to be started again and again.

    The arguments' values may change in between: a start copies them. The device may launch it before the
    one in front of it has ended: the kernel itself waits.
    """

    __slots__ = ("_config", "_error", "_function", "_kept", "_pointers", "_reference", "_start")

    def __init__(
        self,
        start: Callable[..., int],
        error: Callable[[str, int], Exception],
        function: Function,
        grid: tuple[int, int],
        arguments: Sequence[Any],
    ) -> None:
        self._start, self._error, self._function = start, error, function.handle
        self._pointers = (c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        early = _Attribute(_EARLY_LAUNCH, 0, (c_int * 16)(1))
        self._config = _Config(
            (c_uint * 3)(*grid, 1),
            (c_uint * 3)(function.threads, 1, 1),
            function.shared_bytes,
            None,
            ctypes.pointer(early),
            1,
        )
        self._reference = byref(self._config)
        self._kept = (early, arguments)  # the addresses above are theirs

    def start(self, stream: int) -> None:
        """Raises CudaError where the driver refuses it."""
        self._config.stream = stream
        code = self._start(self._reference, self._function, self._pointers, None)
        if code != 0:
            raise self._error("cuLaunchKernelEx", code)
