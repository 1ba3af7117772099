"""The GPU's probe as it is launched; what it reads and how fast is known on a card alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fake_cuda import FakeDriver, plugged
from tests.programs import PROBE, SMALL, program
from tuner.errors import KernelError
from tuner.gpu import device
from tuner.gpu.ptx import parse
from tuner.measure.gpu_probe import FLUSH_BYTES, GpuProbe


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield plugged(monkeypatch)
    device._opened.cache_clear()


def test_a_flush_reads_one_buffer_again_and_again(driver: FakeDriver) -> None:
    probe = GpuProbe(device.opened("cuda"), parse(PROBE))
    probe.flush(0)
    probe.flush(0)
    first, second = driver.launched
    assert first == second
    assert (first.kernel, first.grid, first.threads) == ("moe_read", (132 * 5, 1, 1), 256)
    assert first.arguments["bytes"] == FLUSH_BYTES
    assert driver.inside(first.arguments["source"], FLUSH_BYTES)
    assert driver.inside(first.arguments["sink"], 4)


def test_few_pieces_take_few_blocks(driver: FakeDriver) -> None:
    probe = GpuProbe(device.opened("cuda"), parse(PROBE))
    probe.reading(probe.buffer(3 << 15, 0), 3 << 15).start(0)
    assert driver.launched[0].grid == (3, 1, 1)


def test_a_layer_s_program_is_no_probe(driver: FakeDriver) -> None:
    with pytest.raises(KernelError, match="no probe of a GPU: lacks moe_read"):
        GpuProbe(device.opened("cuda"), parse(program(SMALL, 8)))
