"""The probe of a GPU: a kernel that reads memory. It empties the L2 cache, and tells the read bandwidth.

A cache that was emptied by writing is full of lines that have to be written back while the next kernel reads.
What this one leaves is clean, as it is in a model, where the lines of other layers' weights are in the cache.
"""

from __future__ import annotations

import ctypes

from tuner.errors import KernelError
from tuner.gpu.driver import Address, Device
from tuner.gpu.launch import Launch
from tuner.gpu.ptx import Program

FLUSH_BYTES = 256 << 20  # several times the L2 cache of any card
KERNEL = "moe_read"
_BYTE = 0x5A


def check(program: Program) -> None:
    """Raises KernelError where a program is no probe."""
    kernel = program.kernels.get(KERNEL)
    whole = {"piece_bytes", "blocks"} <= program.facts.keys()
    if kernel is None or not whole or f".entry {kernel.entry}(" not in kernel.ptx:
        raise KernelError(f"no probe of a GPU: lacks {KERNEL} or its facts; build it again")


class GpuProbe:
    """The probe on a device, whose cache it empties."""

    def __init__(self, device: Device, program: Program) -> None:
        """Raises KernelError where the program is no probe, or the driver refuses it."""
        check(program)
        kernel = program.kernels[KERNEL]
        self._device, self._params = device, kernel.params
        self._piece_bytes = program.facts["piece_bytes"]
        self._blocks = program.facts["blocks"] * device.multiprocessors
        self._function = device.load(kernel.ptx, kernel.entry, kernel.threads, kernel.shared_bytes)
        self._sink = device.alloc(4)
        self._flushing: Launch | None = None

    def buffer(self, size: int, stream: int) -> Address:
        """New memory that `reading` may be given; its bytes are all alike."""
        address = self._device.alloc(size)
        self._device.fill(address, _BYTE, size, stream)
        return address

    def reading(self, source: Address, size: int) -> Launch:
        """The kernel on a buffer of whole pieces."""
        assert size % self._piece_bytes == 0
        values = {
            "source": ctypes.c_uint64(source),
            "bytes": ctypes.c_int64(size),
            "sink": ctypes.c_uint64(self._sink),
        }
        grid = min(size // self._piece_bytes, self._blocks), 1
        return self._device.launch(self._function, grid, [values[p] for p in self._params])

    def flush(self, stream: int) -> None:
        """Fills the L2 cache with lines that nobody wants and nobody wrote. The first call takes memory."""
        if self._flushing is None:
            self._flushing = self.reading(self.buffer(FLUSH_BYTES, stream), FLUSH_BYTES)
        self._flushing.start(stream)
