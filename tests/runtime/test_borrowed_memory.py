"""What callers and signals do between calls changes no answer and leaves no lock held."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, kernel, tokens
from tuner.cpu.buffers import Room
from tuner.cpu.kernel import Packed
from tuner.cpu.worker_pool import REGION
from tuner.problem.arrays import to_numpy
from tuner.problem.weights import Weights
from tuner.runtime import packing

pytestmark = pytest.mark.compiler


class Late(Exception):
    pass


def test_an_exception_of_a_signal_handler_leaves_the_region_free() -> None:
    layer, x = tuner.load(TINY, Weights.random(TINY, 1)), tokens(TINY, 2)
    armed = [False]

    def handler(*_: Any) -> None:
        if armed[0]:
            armed[0] = False
            raise Late

    former = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 3e-4, 3e-4)
    try:
        end = time.monotonic() + 2
        while time.monotonic() < end and not REGION._is_owned():  # type: ignore[attr-defined]
            try:
                armed[0] = True
                while armed[0]:  # Python drops an exception that comes in a destructor
                    layer(x)
            except Late:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert not REGION._is_owned()  # type: ignore[attr-defined]
    thread = threading.Thread(target=layer, args=(x,), daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()


def test_the_router_is_a_copy(tmp_path: Path) -> None:
    weights, x = Weights.random(TINY, 1), tokens(TINY, 8)
    path = tmp_path / "router"
    weights.router.tofile(path)
    router = np.memmap(path, np.float32, "r+", shape=weights.router.shape)
    layer = tuner.load(TINY, Weights(**{**vars(weights), "router": router}))
    before = layer(x).copy()
    router[:] = weights.router[::-1]
    np.testing.assert_array_equal(layer(x), before)


def test_rows_that_changed_places_are_no_copy() -> None:
    weights = Weights.random(TINY, 1)
    first, _ = packing.pack(kernel(TINY), "v16_c2", weights)
    weights.up[0, [0, 1]] = weights.up[0, [1, 0]]
    again, shared = packing.pack(kernel(TINY), "v16_c2", weights)
    assert (again is first, shared) == (False, False)


def test_weights_that_change_while_they_are_packed_are_not_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights, own = Weights.random(TINY, 1), kernel(TINY)
    before, plain = weights.up.copy(), own.pack

    def changing(checked: Weights) -> Packed:
        weights.up[0, 0] *= 2
        return plain(checked)

    monkeypatch.setattr(own, "pack", changing)
    first, _ = packing.pack(own, "v16_c2", weights)
    monkeypatch.undo()
    weights.up[...] = before
    again, shared = packing.pack(own, "v16_c2", weights)
    assert (again is first, shared) == (False, False)


def _resized(out: np.ndarray) -> None:
    shape = out.shape
    out.resize((1 << 12, TINY.hidden), refcheck=False)
    out.resize(shape, refcheck=False)


def _restored(out: np.ndarray) -> None:
    former, large = out.copy(), np.zeros((1 << 12, TINY.hidden), out.dtype)
    out.__setstate__(large.__reduce__()[2])
    _elsewhere = [np.empty_like(former) for _ in range(9)]  # NumPy gives freed memory out again
    out.__setstate__(former.__reduce__()[2])


@pytest.mark.parametrize("replace", [_resized, _restored])
def test_a_place_for_answers_whose_memory_is_another_gets_them_there(
    replace: Callable[[np.ndarray], None],
) -> None:
    layer, x = tuner.load(TINY, Weights.random(TINY, 1)), tokens(TINY, 2)
    right = layer(x).copy()
    out, other = np.empty_like(x), np.empty_like(x)
    for _ in range(4):
        layer(x, out=out)
        layer(x, out=other)
    replace(out)
    for _ in range(3):
        out[...] = other[...] = 0
        np.testing.assert_array_equal(layer(x, out=out), right)
        np.testing.assert_array_equal(layer(x, out=other), right)


def test_scratch_memory_that_was_to_move_when_a_signal_came_moves_again() -> None:
    told: list[int] = []

    def moved() -> None:
        told.append(1)
        if len(told) == 1:
            raise Late

    room = Room(moved)
    before = room.address
    with pytest.raises(Late):
        room.of(1 << 22)
    assert room.address == before
    room.of(1 << 22)
    assert len(told) == 2


def test_a_negative_bit_is_resolved() -> None:
    torch = pytest.importorskip("torch")
    value = torch.complex(torch.zeros(2, 3), torch.ones(2, 3)).conj().imag
    assert value.is_neg()
    np.testing.assert_array_equal(to_numpy(value), np.full((2, 3), -1, np.float32))
