"""A signal's exception on the way into the driver or out of it leaves nothing half changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tuner.gpu.driver import Device
from tuner.gpu.scratch import Scratch

_GLOBAL, _RELAXED = 0, 2


class Late(Exception):
    pass


def test_freed_scratch_memory_is_nobodys() -> None:
    def free(address: int) -> None:
        raise Late

    device: Any = SimpleNamespace(alloc=lambda size: 4096, free=free, wait=lambda stream: None)
    scratch = Scratch(device)
    scratch.of(0, 1, captured=False)
    with pytest.raises(Late):
        scratch.of(0, 2 << 20, captured=False)
    assert scratch.block(0) == 0


def test_the_capture_mode_of_a_thread_is_what_it_was() -> None:
    device, modes = Device.__new__(Device), [_GLOBAL]

    def exchange(name: str, mode: Any) -> None:
        held = mode._obj
        modes.append(held.value)
        held.value = modes[-2]
        if len(modes) == 2:
            raise Late

    device._call = exchange  # type: ignore[method-assign]
    with pytest.raises(Late), device._within_captures():
        pass
    assert modes == [_GLOBAL, _RELAXED, _GLOBAL]


def test_a_capture_ends_whatever_is_captured() -> None:
    called: list[str] = []

    class Library:
        def __getattr__(self, name: str) -> Any:
            def call(*_: Any) -> int:
                called.append(name)
                return 0

            return call

    device: Any = Device.__new__(Device)
    device._cu = Library()

    def work(stream: int) -> None:
        raise Late

    with pytest.raises(Late):
        device.graph(work, 1)
    assert called == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]
