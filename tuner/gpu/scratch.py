"""Scratch memory of GPU layers: one block for each stream, for all layers of the process.

The calls of one stream run one after the other, so they share it; those of two streams may run at once. A block
grows to what the largest call wants and is kept: after that a call takes no memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuner.gpu.driver import Address, Device

_ALIGNMENT = 256
_GROWTH = 1 << 20  # whole MiB, so that rising token counts seldom ask again


class Layout:
    """Buffers one after the other in a block: where each starts, and the size of all."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        at, self.offsets = 0, {}
        for name, size in sizes.items():
            self.offsets[name] = at
            at += -(-size // _ALIGNMENT) * _ALIGNMENT
        self.bytes = at

    def at(self, base: Address) -> dict[str, Address]:
        """The address of each buffer in a block."""
        return {name: base + offset for name, offset in self.offsets.items()}


class Scratch:
    """The blocks of one device by stream. Whoever calls it holds the device's lock and works on the device."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._blocks: dict[int, tuple[Address, int]] = {}
        self._in_graphs: set[Address] = set()

    def block(self, stream: int) -> Address:
        """The block that a stream has; 0 for none."""
        return self._blocks.get(stream, (0, 0))[0]

    def of(self, stream: int, size: int, captured: bool) -> Address:
        """A block of at least so many bytes, whose content is anybody's.

        A smaller one is freed once its work has ended, unless a graph that was ``captured`` may use it again.
        """
        address, have = self._blocks.get(stream, (0, 0))
        if have < size:
            self._blocks.pop(
                stream, None
            )  # first: whatever comes in between, no call finds it freed
            if address and not captured and address not in self._in_graphs:
                self._device.wait(stream)
                self._device.free(address)
            have = -(-size // _GROWTH) * _GROWTH
            address = self._device.alloc(have)
            self._blocks[stream] = address, have
        if captured:
            self._in_graphs.add(address)
        return address


_of_devices: dict[int, Scratch] = {}


def of(device: Device) -> Scratch:
    """The scratch memory of a device."""
    return _of_devices.setdefault(device.index, Scratch(device))
