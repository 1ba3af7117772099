"""A layer of other kernels, other names and another packing than the template's: it says all that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.fake_cuda import FakeDriver, plugged
from tests.programs import SMALL, program
from tests.runtime.test_gpu_layer import zeros
from tuner import Problem, Selection
from tuner.errors import CompileError, KernelError
from tuner.gpu import device as gpu_device
from tuner.gpu.driver import Device
from tuner.gpu.pack import Packing
from tuner.gpu.program import layer_program
from tuner.problem.weights import Weights
from tuner.runtime.gpu_layer import GpuLayer
from tuner.target import named

TOY = Problem(
    hidden=32, expert_dim=16, num_experts=3, top_k=2, shared_dim=16, dtype="float16", name="toy"
)
WEIGHTS = Weights.random(TOY, seed=2)
PARAMS = {
    "pick": "x gates tokens indices weights routed",
    "mix": "both x indices inner tokens",
    "fold": "back inner indices weights partial y tokens multi",
}
# Rows as they are, in panels of 8 rows whose depth is the fast axis; the router in float32.
TEXT = """\
//// layer abi 2 hidden 32 expert_dim 16 experts 3 top_k 2 shared 1
//// pack gates float32 3 32 = take router
//// pack both float16 4 2 2 32 8 = take gate | take shared_gate | reshape 1 16 32 | join \
| take up | take shared_up | reshape 1 16 32 | join | each | stack 2 | reshape 2 2 8 32 | transpose 0 1 3 2
//// pack back float16 3 32 16 = take down
//// pack multi float16 5 = zeros 5
//// scratch inner = tokens * 96
//// scratch partial = multiprocessors * min(tokens, 8) * 4
//// launch pick = tokens | 1
//// launch mix = (tokens + 3) // 4 | 2
//// launch fold = min(tokens, multiprocessors) | 1
//// launch mix = 1 | 1
"""


def text() -> str:
    lines = [
        f"//// kernel {name}_0000000a 64 0 {params}\n.visible .entry {name}_0000000a(\n//// end\n"
        for name, params in PARAMS.items()
    ]
    return TEXT + "".join(lines)


class One:
    """A Catalogue of the toy alone, or with another program up from 9 tokens."""

    def __init__(self, folder: Path, problem: Problem, *texts: str) -> None:
        self.problem, self.paths = problem, [folder / f"{i}.ptx" for i in range(len(texts))]
        for path, content in zip(self.paths, texts, strict=True):
            path.write_text(content)

    def select(self, tokens: int, load: str, pack: str | None) -> Selection:
        return Selection(
            template="toy", variant="many" if tokens > 8 and len(self.paths) > 1 else "few",
            config={}, pack="", match="exact", reason="tuned", distance=0.0,
            evidence={"tokens": 64 if tokens > 8 else 8}, tokens=tokens, load=load,
            target=named("nvidia-h100"),
        )  # fmt: skip

    def binary(self, selection: Selection) -> Path:
        return self.paths[0 if selection.variant == "few" else 1]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield plugged(monkeypatch, params=dict(PARAMS))
    gpu_device._opened.cache_clear()


def read(device: Device, address: int, like: np.ndarray) -> np.ndarray:
    found = np.empty_like(like)
    device.download(address, found)
    return found


def test_grids_scratch_and_weights_are_what_the_text_says(
    driver: FakeDriver, tmp_path: Path
) -> None:
    layer = GpuLayer(One(tmp_path, TOY, text()), WEIGHTS, gpu_device.opened("cuda"))
    x, y = zeros(9, 32), zeros(9, 32)
    layer(x, out=y)
    assert [(launch.kernel, launch.grid) for launch in driver.launched] == [
        ("pick", (9, 1, 1)),
        ("mix", (3, 2, 1)),
        ("fold", (9, 1, 1)),
        ("mix", (1, 1, 1)),
    ]
    pick, mix, fold, _ = (launch.arguments for launch in driver.launched)
    assert (pick["x"], fold["y"], pick["tokens"]) == (x.address, y.address, 9)
    assert fold["partial"] - mix["inner"] == 1024  # 864 bytes, in whole 256
    assert min(pick["indices"], pick["weights"]) - fold["partial"] >= 132 * 8 * 4
    gates = read(layer._device, pick["gates"], WEIGHTS.router.astype(np.float32))
    np.testing.assert_array_equal(gates, WEIGHTS.router)
    both = read(layer._device, mix["both"], np.zeros((4, 2, 2, 32, 8), np.float16))
    assert both[1, 0, 1, 30, 3] == WEIGHTS.gate[1, 11, 30]
    assert both[2, 1, 0, 5, 7] == WEIGHTS.up[2, 7, 5]
    assert both[3, 1, 1, 5, 0] == WEIGHTS.shared_up[8, 5]
    assert not read(layer._device, fold["multi"], np.ones(5, np.float16)).any()
    assert layer.stats().packed_bytes == 3 * 32 * 4 + both.nbytes + 3 * 32 * 16 * 2 + 10


def test_a_program_of_another_packing_gives_way(driver: FakeDriver, tmp_path: Path) -> None:
    other = text().replace("transpose 0 1 3 2", "transpose 0 1 2 3")
    layer = GpuLayer(One(tmp_path, TOY, text(), other), WEIGHTS, gpu_device.opened("cuda"))
    layer(zeros(64, 32), out=zeros(64, 32))
    chosen = layer.selection(64)
    assert (chosen.variant, chosen.match) == ("few", "tokens")
    digests = [layer_program(TOY, t, "toy").packing.digest for t in (other, text())]
    assert chosen.reason == (
        "tuned; in place of many, which does not load here "
        f"(it reads weights packed as {digests[0]}, and the layer's are packed as {digests[1]})"
    )


def test_the_digest_is_of_what_is_packed_not_of_how_it_is_written() -> None:
    lines = ["a float16 2 = zeros 2", "b float16 4 8 = take up | each | reshape 8"]
    spaced = [f" {line} ".replace(" ", "  ") for line in reversed(lines)]
    assert Packing(lines).digest == Packing(spaced).digest
    assert Packing(lines).digest != Packing([lines[0]]).digest


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ("take gate_bias", "the layer has no gate_bias"),
        ("take down | reshape 5 5", "cannot reshape"),
        ("take down | each | transpose 0 1 2", "axes don't match"),
        ("take down | take shared_down | each | stack 2", "not all of its arrays are 3 long"),
        ("take down | take up", "too many values"),
        ("join", "out of range"),
        ("zeros 3 32 | swizzle 0 1", "could not be broadcast|cannot reshape"),
    ],
)
def test_steps_that_do_not_fit(steps: str, said: str) -> None:
    packing = Packing([f"a float16 3 32 16 = {steps}"])
    with pytest.raises(KernelError, match=f"pack a: its steps do not fit the layer .*({said})"):
        packing.pack(WEIGHTS)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a float12 3 = zeros 3", "must be a name, a data type and a shape"),
        ("a float16 = zeros 3", "must be a name, a data type and a shape"),
        ("a float16 3 = zeros -3", "step 'zeros -3': not known; take a newer moetune"),
        ("a float16 3 = melt 3", "step 'melt 3': not known"),
        ("a float16 3 = take up | pad 3", "step 'pad 3': not known"),
    ],
)
def test_lines_that_say_nothing(line: str, said: str) -> None:
    with pytest.raises(CompileError, match=said):
        Packing([line])


def test_a_swizzle_is_its_own_inverse() -> None:
    weights = Weights.random(SMALL, seed=1)
    steps = "take up | each | reshape 8 8 16 8 | swizzle 1 2"
    once = Packing([f"a float16 8 8 8 16 8 = {steps}"]).pack(weights)["a"]
    twice = Packing([f"a float16 8 8 8 16 8 = {steps} | swizzle 1 2"]).pack(weights)["a"]
    assert once[2, 3, 5, 9].tolist() == weights.up[2, 29].reshape(16, 8)[9 ^ 5].tolist()
    np.testing.assert_array_equal(twice.reshape(weights.up.shape), weights.up)


def test_a_program_is_asked_for_its_values_before_a_call_is() -> None:
    with pytest.raises(KernelError, match="odd: has a grid or a buffer of size -1; build it again"):
        layer_program(SMALL, program(SMALL, 8).replace("tiles = 4", "tiles = -tokens"), "odd")
