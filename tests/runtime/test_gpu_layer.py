"""A layer on a stand-in for the driver: what it is given, in which order, and what is refused."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.fake_cuda import FakeDriver, Launched, plugged
from tests.programs import PARAMS, SMALL, Two, program
from tuner.errors import DeviceError, UsageError, WeightsError
from tuner.gpu import device as gpu_device
from tuner.gpu import former
from tuner.gpu.driver import CudaError
from tuner.gpu.ptx import parse
from tuner.problem.weights import Weights
from tuner.runtime.gpu_layer import GpuLayer

WEIGHTS = Weights.random(SMALL, seed=1)


class OnDevice:
    """A NumPy array that says that it lies on a GPU; the stand-in's memory is this process's own."""

    def __init__(self, array: np.ndarray, index: int = 0) -> None:
        self.array, self.index, self.streams = array, index, list[int]()

    def __dlpack__(self, stream: int) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.index

    @property
    def address(self) -> int:
        return self.array.ctypes.data


def zeros(tokens: int, hidden: int = 128, dtype: Any = np.float16) -> OnDevice:
    raw = np.zeros(tokens * hidden * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    size = tokens * hidden * np.dtype(dtype).itemsize
    return OnDevice(raw[start : start + size].view(dtype).reshape(tokens, hidden))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield plugged(monkeypatch)
    gpu_device._opened.cache_clear()


@pytest.fixture
def layer(driver: FakeDriver, tmp_path: Path) -> GpuLayer:
    return GpuLayer(Two(tmp_path), WEIGHTS, gpu_device.opened("cuda"))


def run(layer: GpuLayer, driver: FakeDriver, tokens: int, stream: int = 0) -> list[Launched]:
    """One call; what was launched."""
    driver.launched.clear()
    layer(zeros(tokens), out=zeros(tokens), stream=stream)
    return list(driver.launched)


def test_a_call_is_five_launches_on_the_caller_s_arrays_and_stream(
    layer: GpuLayer, driver: FakeDriver
) -> None:
    x, y = zeros(3), zeros(3)
    assert layer(x, out=y, stream=5) is y
    assert [launch.kernel for launch in driver.launched] == list(PARAMS)
    assert {launch.stream for launch in driver.launched} == {5}
    assert (x.streams, y.streams) == ([5], [5])
    logits, choose, first, second, combine = driver.launched
    assert logits.arguments["x"] == first.arguments["x"] == x.address
    assert combine.arguments["y"] == y.address
    assert {launch.arguments.get("tokens", 3) for launch in driver.launched} == {3}
    assert choose.arguments["routed"] == 0
    assert (logits.grid, choose.grid, combine.grid) == ((1, 1, 1), (1, 1, 1), (2, 1, 1))
    assert (first.grid, first.shared, first.threads) == ((12, 1, 1), 65536, 256)
    assert second.arguments["hidden"] == first.arguments["hidden"]


def test_scratch_buffers_lie_apart_in_one_block(layer: GpuLayer, driver: FakeDriver) -> None:
    arguments: dict[str, int] = {}
    for launch in run(layer, driver, 20):
        arguments.update(launch.arguments)
    sizes = parse(program(SMALL, 64)).scratch_sizes(20, 132) | {
        "indices": 20 * 2 * 4,
        "weights": 20 * 2 * 4,
    }
    places = sorted((arguments[name], size) for name, size in sizes.items())
    assert all(a + size <= b for (a, size), (b, _) in itertools.pairwise(places))
    start, end = places[0][0], sum(places[-1])
    assert driver.inside(start, end - start)
    assert all(place % 256 == 0 for place, _ in places)


def test_packed_weights_are_in_device_memory(layer: GpuLayer, driver: FakeDriver) -> None:
    packed = former.packing(SMALL).pack(WEIGHTS.check(SMALL))
    arguments: dict[str, int] = {}
    for launch in run(layer, driver, 1):
        arguments.update(launch.arguments)
    for name, array in packed.items():
        found = np.empty_like(array)
        layer._device.download(arguments[name], found)
        np.testing.assert_array_equal(found, array)
    assert layer.stats().packed_bytes == sum(array.nbytes for array in packed.values())


def test_the_steady_call_is_launches_alone(layer: GpuLayer, driver: FakeDriver) -> None:
    run(layer, driver, 3)
    driver.calls.clear()
    run(layer, driver, 3)
    asked = {"cuCtxGetCurrent", "cuStreamIsCapturing"}
    assert [name for name in driver.calls if name not in asked] == ["cuLaunchKernelEx"] * 5


def test_token_counts_choose_the_program(layer: GpuLayer, driver: FakeDriver) -> None:
    grids = {t: run(layer, driver, t)[1].grid for t in (1, 8, 9, 30)}
    assert grids == {1: (1, 1, 1), 8: (1, 1, 1), 9: (2, 1, 1), 30: (4, 1, 1)}
    assert [layer.selection(t).variant for t in (8, 9)] == ["small", "large"]
    stats = layer.stats()
    served = [(bucket.variant, bucket.first, bucket.calls) for bucket in stats.buckets]
    assert served == [("small", 1, 2), ("large", 9, 2)]
    assert (stats.calls, stats.tokens, stats.sampled) == (4, {1: 1, 8: 2, 16: 1}, 0)


def test_each_program_is_loaded_once_in_a_process(driver: FakeDriver, tmp_path: Path) -> None:
    for _ in range(2):
        layer = GpuLayer(Two(tmp_path), WEIGHTS, gpu_device.opened("cuda:0"))
        layer.prepare([1, 100])
    assert driver.calls.count("cuModuleLoadDataEx") == 2 * len(PARAMS)


def test_streams_have_scratch_memory_of_their_own(layer: GpuLayer, driver: FakeDriver) -> None:
    first, second = (run(layer, driver, 3, stream)[0].arguments["logits"] for stream in (1, 2))
    assert first != second
    assert run(layer, driver, 3, 1)[0].arguments["logits"] == first


def test_scratch_memory_grows_behind_the_work_that_uses_it(
    layer: GpuLayer, driver: FakeDriver
) -> None:
    small = run(layer, driver, 3, 4)[0].arguments["logits"]
    driver.calls.clear()
    large = run(layer, driver, 4000, 4)[0].arguments["logits"]
    order = [
        n for n in driver.calls if n in ("cuStreamSynchronize", "cuMemFree_v2", "cuMemAlloc_v2")
    ]
    assert order == ["cuStreamSynchronize", "cuMemFree_v2", "cuMemAlloc_v2"]
    assert driver.inside(large)
    again = run(layer, driver, 3, 4)
    assert again[0].arguments["logits"] == large
    assert all(driver.inside(launch.arguments["logits"]) for launch in again[:2])
    assert small not in {launch.arguments.get("logits") for launch in again}


def test_a_capture_takes_memory_that_no_later_call_frees(
    layer: GpuLayer, driver: FakeDriver
) -> None:
    driver.capturing.add(6)
    x = zeros(3)
    layer(x, out=zeros(3), stream=6)
    captured = list(driver.launched)
    assert x.streams == [-1]  # nobody may wait for work outside of the capture
    assert all(launch.captured for launch in captured)
    assert driver.mode == 0
    driver.capturing.clear()
    run(layer, driver, 4000, 6)
    assert driver.inside(captured[0].arguments["logits"])


def test_a_thread_that_works_on_another_gpu_goes_on_there(
    layer: GpuLayer, driver: FakeDriver
) -> None:
    driver.current = 5
    run(layer, driver, 3)
    assert driver.current == 5
    driver.current = 0
    run(layer, driver, 3)
    assert driver.current == 77


def test_threads_take_turns(layer: GpuLayer, driver: FakeDriver) -> None:
    x, y = zeros(2), zeros(2)
    layer(x, out=y)
    driver.launched.clear()
    workers = [
        threading.Thread(target=lambda: [layer(x, out=y) for _ in range(20)]) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [launch.kernel for launch in driver.launched] == list(PARAMS) * 80


def test_no_tokens_no_launch(layer: GpuLayer, driver: FakeDriver) -> None:
    assert run(layer, driver, 0) == []


def test_weights_go_with_their_layer(driver: FakeDriver, tmp_path: Path) -> None:
    layer = GpuLayer(Two(tmp_path), WEIGHTS, gpu_device.opened("cuda"))
    assert len(driver.blocks) == len(former.packing(SMALL).pack(WEIGHTS))
    del layer
    gc.collect()
    assert driver.blocks == {}


def test_weights_that_lie_on_the_gpu(driver: FakeDriver, tmp_path: Path) -> None:
    given = {n: OnDevice(a) for n, a in vars(WEIGHTS).items() if a is not None}
    layer = GpuLayer(Two(tmp_path), Weights(**given), gpu_device.opened("cuda"))
    test_packed_weights_are_in_device_memory(layer, driver)


def test_weights_that_do_not_fit(driver: FakeDriver, tmp_path: Path) -> None:
    wide = dataclasses.replace(WEIGHTS, router=WEIGHTS.router.astype(np.float32))
    with pytest.raises(WeightsError, match=r"router: is float32, and kernels .* one in float16"):
        GpuLayer(Two(tmp_path), wide, gpu_device.opened("cuda"))
    driver.most_bytes = 1000
    with pytest.raises(CudaError, match="cuda:0: 0 MiB cannot be had; free some"):
        GpuLayer(Two(tmp_path), WEIGHTS, gpu_device.opened("cuda"))


def test_a_program_that_does_not_load_gives_way(driver: FakeDriver, tmp_path: Path) -> None:
    driver.refuse = "moe_product_1_00000040"
    layer = GpuLayer(Two(tmp_path), WEIGHTS, gpu_device.opened("cuda"))
    assert run(layer, driver, 30)[1].grid == (4, 1, 1)
    chosen = layer.selection(30)
    assert (chosen.variant, chosen.match) == ("small", "tokens")
    assert chosen.reason == (
        "tuned; in place of large, which does not load here "
        "(cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218): no word from the driver)"
    )
    driver.refuse = "moe_product_1"
    with pytest.raises(CudaError, match="CUDA_ERROR_INVALID_PTX"):
        GpuLayer(Two(tmp_path, SMALL.replace(hidden=64)), WEIGHTS, gpu_device.opened("cuda"))


TAKEN = "must be [T, 128] float16 on cuda:0, C-contiguous, at a multiple of 16 bytes"
REFUSED = {
    "shape": (zeros(2, 64), "x: has shape [2, 64] float16 on cuda:0, must be [T, 128]"),
    "type": (zeros(2, dtype=np.float32), "x: has shape [2, 128] float32 on cuda:0"),
    "another GPU": (OnDevice(zeros(2).array, 1), "x: has shape [2, 128] float16 on cuda:1"),
    "order": (OnDevice(zeros(128, 128).array.T), "float16 on cuda:0, not C-contiguous"),
    "place": (OnDevice(zeros(3).array.reshape(-1)[1:129].reshape(1, 128)), TAKEN),
    "host": (zeros(2).array, "x: has shape [2, 128] float16 off the GPU"),
    "list": ([1.0], "x: is a list, must be a torch tensor on the GPU or have DLPack"),
}  # fmt: skip


@pytest.mark.parametrize(("x", "said"), REFUSED.values(), ids=REFUSED)
def test_arrays_that_do_not_fit(layer: GpuLayer, driver: FakeDriver, x: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        layer(x, out=zeros(2))
    assert said in str(caught.value)
    assert driver.launched == []


def test_answers_that_do_not_fit(layer: GpuLayer, driver: FakeDriver) -> None:
    with pytest.raises(UsageError, match=r"out: has shape \[3, 128\] .* must be \[2, 128\]"):
        layer(zeros(2), out=zeros(3))
    with pytest.raises(UsageError, match="x: is a OnDevice: give out="):
        layer(zeros(2))
    with pytest.raises(UsageError, match="stream: is a str, must be a CUDA stream's handle"):
        layer(zeros(2), out=zeros(2), stream="0")
    assert driver.launched == []


def test_answers_that_overlap_the_tokens(layer: GpuLayer, driver: FakeDriver) -> None:
    both = zeros(4).array
    for first in (0, 1):
        x, out = OnDevice(both[:3]), OnDevice(both[first : first + 3])
        with pytest.raises(UsageError, match="out: overlaps x"):
            layer(x, out=out)
    layer(OnDevice(both[:2]), out=OnDevice(both[2:]))


def test_no_driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.undo()
    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(DeviceError, match=r"no NVIDIA driver is here .*; run this where one is"):
        tuner.load(SMALL, WEIGHTS, device="cuda:0")


def test_gpus_that_are_not_there(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match=r"cuda:3: the driver has no such GPU .* `nvidia-smi`"):
        tuner.load(SMALL, WEIGHTS, device="cuda:3")
    with pytest.raises(UsageError, match="device='gpu': must be cpu, cuda or cuda:N"):
        tuner.load(SMALL, WEIGHTS, device="gpu")
    driver.facts |= {75: 8, 76: 0}
    driver.label = "NVIDIA A100-SXM4-40GB"
    with pytest.raises(DeviceError, match=r"A100.* is of sm_80, and kernels are for sm_90a alone"):
        tuner.load(SMALL, WEIGHTS, device="cuda:0")


def test_a_gpu_as_a_target(driver: FakeDriver) -> None:
    device = gpu_device.opened("cuda:0")
    assert gpu_device.target_of(device) == tuner.target.named("nvidia-h100")
    driver.label = "NVIDIA H100 PCIe"
    driver.facts[16] = 114
    other = gpu_device.target_of(device)
    assert (other.label, other.arch, other.cores) == ("nvidia-h100-pcie", "sm_90a", 114)
    assert (other.l1d_bytes, other.l2_bytes, other.kind) == (228 << 10, 50 << 20, "gpu")


class Tensor:
    """Looks like a torch tensor on a GPU."""

    __module__ = "torch"

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, f"torch.{array.dtype}"
        self.device = types.SimpleNamespace(type="cuda", index=0)

    def data_ptr(self) -> int:
        return int(self.array.ctypes.data)

    def is_neg(self) -> bool:
        return False

    def is_contiguous(self) -> bool:
        return bool(self.array.flags.c_contiguous)


class Torch:
    """What a layer asks of torch; `current` is its current stream."""

    float16, float32, int32, uint8 = "float16", "float32", "int32", "uint8"

    def __init__(self) -> None:
        self.current, self.made, self.kept = 9, list[tuple[Any, str, int]](), list[Tensor]()
        self.cuda = types.SimpleNamespace(
            current_stream=lambda index: types.SimpleNamespace(cuda_stream=self.current),
            ExternalStream=lambda handle, device: handle,
            stream=self.on,
        )

    @contextlib.contextmanager
    def on(self, handle: int) -> Iterator[None]:
        before, self.current = self.current, handle
        yield
        self.current = before

    def empty(self, shape: tuple[int, ...], dtype: str, device: str) -> Tensor:
        assert device == "cuda:0"
        self.made.append((shape, dtype, self.current))
        self.kept.append(Tensor(zeros(1, int(np.prod(shape)), dtype).array.reshape(shape)))
        return self.kept[-1]


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    made = Torch()
    monkeypatch.setitem(sys.modules, "torch", made)  # type: ignore[arg-type]
    return made


def test_torch_s_tensors_and_current_stream(
    layer: GpuLayer, driver: FakeDriver, torch: Torch
) -> None:
    y, indices, weights = layer(Tensor(zeros(3).array), return_routing=True)
    assert torch.made == [((3, 128), "float16", 9), ((3, 2), "int32", 9), ((3, 2), "float32", 9)]
    assert {launch.stream for launch in driver.launched} == {9}
    _, choose, _, _, combine = driver.launched
    assert combine.arguments["y"] == y.data_ptr()
    assert choose.arguments["indices"] == indices.data_ptr()
    assert choose.arguments["weights"] == combine.arguments["weights"] == weights.data_ptr()
    driver.launched.clear()
    layer(Tensor(zeros(3).array))
    assert driver.inside(driver.launched[1].arguments["indices"])  # not the former call's any more


def test_another_stream_s_answer_is_of_its_memory(
    layer: GpuLayer, driver: FakeDriver, torch: Torch
) -> None:
    layer(Tensor(zeros(3).array), stream=types.SimpleNamespace(cuda_stream=12))
    assert torch.made == [((3, 128), "float16", 12)]
    assert {launch.stream for launch in driver.launched} == {12}


def test_a_torch_graph_owns_its_scratch_memory(
    layer: GpuLayer, driver: FakeDriver, torch: Torch
) -> None:
    driver.capturing.add(9)
    driver.calls.clear()
    layer(Tensor(zeros(3).array), out=Tensor(zeros(3).array))
    ((shape, dtype, stream),) = torch.made
    assert (dtype, stream) == ("uint8", 9)
    start = torch.kept[0].data_ptr()
    arguments = driver.launched[0].arguments
    assert start <= arguments["logits"] < start + shape[0]
    assert "cuMemAlloc_v2" not in driver.calls
