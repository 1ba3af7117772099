"""GPUs of this machine by name: ``cuda:0``, and what each is as a Target."""

from __future__ import annotations

import functools
import re

from tuner.errors import DeviceError, UsageError
from tuner.gpu.driver import Device
from tuner.target import Target, gpus
from tuner.target.target import of_card

_NAME = re.compile(r"cuda(?::(\d{1,3}))?")
# What the GPU templates are written for, and the capability that the driver tells for it.
_ARCHITECTURES = tuple(dict.fromkeys(card.arch for card in gpus.CARDS.values()))


def opened(name: str) -> Device:
    """The GPU of a name (``cuda`` is ``cuda:0``), opened once in a process.

    Raises:
        UsageError: the name is none.
        DeviceError: there is no driver, no such GPU, or it is of an architecture without kernels.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"device={name!r}: must be cpu, cuda or cuda:N")
    return _opened(int(found[1] or 0))


@functools.cache
def _opened(index: int) -> Device:
    device = Device(index)
    if device.arch not in _ARCHITECTURES:
        have = ", ".join(card.label for card in gpus.CARDS.values())
        raise DeviceError(
            f"cuda:{index}: {device.name} is of {device.arch}, and kernels are for {', '.join(_ARCHITECTURES)} "
            f"alone ({have}); name another GPU, or leave the device out for the CPU"
        )
    return device


def target_of(device: Device) -> Target:
    """A GPU as a Target: its card's where that is known and whole, else what the driver tells of it."""
    card = gpus.by_label(device.name)
    if card is None or card.multiprocessors != device.multiprocessors:
        card = gpus.Card(
            name=re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-"),
            label=device.name,
            arch=device.arch,
            multiprocessors=device.multiprocessors,
            shared_bytes=device.shared_bytes,
            l2_bytes=device.l2_bytes,
        )
    return of_card(card)
