"""Jobs and the dense ceiling on a stand-in for the driver: they launch and upload what programs say."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_cuda import FakeDriver, Launched, plugged
from tests.jobs import PROBLEM, made
from tests.programs import PARAMS, PROBE, SMALL, former_program, program
from tuner.errors import KernelError
from tuner.gpu import device as gpu_device
from tuner.gpu.ptx import parse
from tuner.measure import gpu_peak
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.offline import gpu
from tuner.problem.weights import Weights

DENSE = SMALL.replace(num_experts=1, top_k=1, activation="relu")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield plugged(monkeypatch)
    gpu_device._opened.cache_clear()


def test_a_job_packs_once_for_programs_that_read_the_same(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = made(monkeypatch, tmp_path, tokens=(1, 64), trials=2)
    folder, data = tmp_path / "job", tmp_path / "data"
    broken, *variants = job.variants
    texts = [former_program(PROBLEM, 8), program(PROBLEM, 8)]
    for variant, text in zip(variants, itertools.cycle(texts)):
        (folder / variant.file).write_text(text)
    data.mkdir()
    weights = Weights.random(PROBLEM, seed=job.seed)
    gpu.write(job, folder, weights, data)
    packing = parse(texts[1]).packing
    assert [path.name for path in data.iterdir()] == [packing.digest]
    bench = gpu.open_bench(folder, data)
    places = []
    for variant in variants:
        kernel = bench.kernel(folder / variant.file)
        arena = bench.gpu.arena(kernel, 3)
        bench.gpu.call(kernel, arena, 3, routed=False).run(0)
        places.append(driver.launched[-3].arguments["product1"])
        assert list(arena.pieces) == ["x", "y", "indices", "weights", *kernel.program.scratch]
    assert (len(variants) > 1, len(set(places))) == (True, 1)
    wanted = packing.pack(weights)["product1"].tobytes()
    assert ctypes.string_at(places[0], len(wanted)) == wanted
    with pytest.raises(KernelError, match="was built for"):
        bench.kernel(folder / broken.file)


def dense_rate(monkeypatch: pytest.MonkeyPatch, text: str) -> float:
    """The ceiling by a program, each launch taking a microsecond."""

    def timed(bench: GpuBench, work: object) -> float:
        assert callable(work)
        work()
        return 1000.0

    monkeypatch.setattr(gpu_peak, "layer", lambda dtype: DENSE)
    monkeypatch.setattr(gpu_peak, "TOKENS", 8)
    monkeypatch.setattr(GpuBench, "timed", timed)
    device = gpu_device.opened("cuda")
    return gpu_peak.gflop_s(device, text, "float16", GpuProbe(device, parse(PROBE)))


def test_the_dense_ceiling_times_the_kernel_that_the_program_names(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(launched: Launched) -> None:
        if launched.kernel == "moe_combine":
            ctypes.memset(launched.arguments["y"], 0, 8 * DENSE.hidden * 2)

    driver.run = run
    rate = dense_rate(monkeypatch, former_program(DENSE, 8))
    assert rate == 2 * 8 * DENSE.hidden * DENSE.expert_dim / 1000.0
    logits, choose, first, second, combine = PARAMS
    launched = [launch.kernel for launch in driver.launched]
    assert launched == [logits, choose, *[first] * 23, second, combine]


def test_no_dense_kernel_no_ceiling(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    text = program(DENSE, 8).replace("//// dense moe_product_1\n", "")
    with pytest.raises(KernelError, match="names no dense kernel; make the job again"):
        dense_rate(monkeypatch, text)
