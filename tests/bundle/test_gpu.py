"""Programs for GPUs in bundles: built, read, chosen and refused without a GPU or a compiler."""

from __future__ import annotations

import ctypes
import dataclasses
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.bundles import ROW, ZEN4, manifest_of, part
from tests.commands import Run
from tests.fake_cuda import FakeDriver, Launched, plugged
from tests.programs import PROBE, SMALL, former_program, program
from tuner.bundle import build as builder
from tuner.bundle import install as installer
from tuner.bundle import open_bundle, selftest
from tuner.bundle.build import packed
from tuner.bundle.catalogue import BundleCatalogue
from tuner.bundle.gpu_probation import GpuProbation
from tuner.bundle.install import REFUSED, install
from tuner.bundle.manifest import Evidence
from tuner.bundle.reader import read_bundle
from tuner.errors import BundleAbiError, BundleArchitectureError, UsageError
from tuner.gpu import device as gpu_device
from tuner.measure import reference
from tuner.problem import Problem
from tuner.runtime.gpu_layer import GpuLayer
from tuner.select.selection import Selection
from tuner.target import Target, named

H100, H200 = named("nvidia-h100"), named("nvidia-h200")
NO_DRIVER = "no NVIDIA driver is here"


def write(path: Path, targets: tuple[Target, ...], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle of the template's defaults; programs are those of tests/programs.py."""

    def library(problem: Problem, selection: Selection) -> tuple[Path, str]:
        made = path.with_name(f"{selection.variant}.ptx")
        made.write_text(program(problem, selection.config["tile_n"]))
        return made, f"# {selection.variant}\n"

    probe = path.with_name("probe.ptx")
    probe.write_text(PROBE)
    monkeypatch.setattr(builder, "_library", library)
    monkeypatch.setattr(builder.probes, "of_gpu", lambda target: probe)
    monkeypatch.setattr(builder, "toolchain_version", lambda: "Mojo of the test")
    path.write_bytes(builder.build([SMALL], targets, path.with_name("none.sqlite3")))
    return path


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write(tmp_path / "gpu.moe", (H100,), monkeypatch)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    yield plugged(monkeypatch)
    gpu_device._opened.cache_clear()


def changed(path: Path, members: dict[str, bytes], **fields: Any) -> Path:
    """The bundle with some members, and some fields of its part, replaced, and right digests."""
    bundle = read_bundle(path, "unsigned")
    contents = {n: bundle.archive.read(n) for n in bundle.manifest.members} | members
    (section,) = bundle.manifest.sections
    made = dataclasses.replace(section.parts[0], **fields)
    manifest = manifest_of((dataclasses.replace(section, parts=(made,)),), contents)
    path.write_bytes(packed(manifest.dump(), contents))
    return path


def test_what_is_in_it(path: Path) -> None:
    bundle = read_bundle(path, "unsigned")
    (section,) = bundle.manifest.sections
    (made,) = section.parts
    assert (made.target, made.machine, made.tuned) == (H100, "ptx", False)
    assert made.probe == f"probe/{SMALL.digest}/nvidia-h100.ptx"
    assert bundle.archive.read(made.probe).decode() == PROBE
    assert made.note == (
        "nothing was tuned for nvidia-h100: the template's default, compiled for it; "
        "never run where this bundle was built"
    )
    for variant, build in made.builds.items():
        assert build.binary == f"bin/{SMALL.digest}/nvidia-h100/{variant}.ptx"
        text = program(SMALL, build.config["tile_n"])
        assert bundle.archive.read(build.binary).decode() == text
        assert (build.pack, build.template) == ("", "moe_gpu")
    assert [case.tokens for case in section.selftest.cases] == [1, 7, 33, 16, 259]


def test_it_is_verified_and_described_without_a_gpu(path: Path, moetune: Run) -> None:
    said = moetune(f"bundle verify {path} --trust unsigned")
    assert said.code == 0
    assert "  nvidia-h100: nothing was tuned for nvidia-h100" in said.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "abi None, not 1"),
        (program(SMALL, 8, abi=9), "abi 9, not 1"),
        (program(SMALL.replace(hidden=64), 8), "was built for {'hidden': 64"),
        (former_program(SMALL, 8).replace("moe_combine", "moe_other"), "moe_other are not what"),
        (
            program(SMALL, 8).replace("kernel moe_combine", "kernel moe_x"),
            "moe_x are not what",
        ),
        (
            program(SMALL, 8).replace("launch moe_combine", "launch moe_x"),
            "launches moe_x, which it",
        ),
        (program(SMALL, 8).replace("//// launch", "//// was"), "moe_combine are not what"),
        (
            program(SMALL, 8).replace("scratch rows", "scratch row"),
            "asks for rows, which nobody gives",
        ),
        (program(SMALL, 8).replace("scratch rows", "scratch tokens"), "tokens is the name of two"),
        (program(SMALL, 8).replace("logits = tokens", "logits = 1 // 0"), "cannot be worked out"),
        (program(SMALL, 8).replace("logits = tokens", "logits = experts"), "reads experts"),
        (
            program(SMALL, 8).replace("logits = tokens", "logits = 'a'"),
            "\"'a' * 32\": is no expression",
        ),
        (program(SMALL, 8).replace("| swizzle", "| swirl"), "step 'swirl 3 5': not known"),
        (program(SMALL, 8).replace(".entry moe_choose", ".entry moe_x"), "kernels moe_choose are"),
        ("//// layer abi one\n", "invalid literal"),
    ],
)
def test_programs_that_no_layer_could_run(path: Path, text: str, said: str) -> None:
    (made,) = read_bundle(path, "unsigned").manifest.sections[0].parts
    first = next(iter(made.builds.values()))
    changed(path, {first.binary: text.encode()})
    with pytest.raises(BundleAbiError) as caught:
        read_bundle(path, "unsigned")
    assert said in str(caught.value)


def test_a_probe_that_reads_nothing(path: Path) -> None:
    (made,) = read_bundle(path, "unsigned").manifest.sections[0].parts
    changed(path, {made.probe: program(SMALL, 8).encode()})
    with pytest.raises(
        BundleAbiError, match=r"probe/\w+/nvidia-h100\.ptx: no probe of a GPU: lacks moe_read"
    ):
        read_bundle(path, "unsigned")


def test_one_card_s_bundle_runs_on_another_of_its_architecture(path: Path) -> None:
    (made,) = read_bundle(path, "unsigned").manifest.sections[0].parts
    variant = made.tables["uniform"].rules[0].variant
    row = {**ROW, "target": H100.key}
    changed(path, {}, evidence=(Evidence(1, "uniform", variant, row),))
    told = {}
    for card in (H100, H200):
        selection = open_bundle(path, "unsigned", target=card).select(1, "uniform", None)
        told[card.label] = selection.match, selection.reason
    assert told == {
        "nvidia-h100": ("exact", "of a bundle, tuned on a machine like this: same tokens and load"),
        "nvidia-h200": (
            "arch",
            "of a bundle, tuned on nvidia-h100; this is nvidia-h200, of sm_90a too: same tokens and load",
        ),
    }


def test_a_card_s_own_part_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "two.moe", (H100, H200), monkeypatch)
    assert open_bundle(path, "unsigned", target=H200).part.target == H200
    assert open_bundle(path, "unsigned", target=H100).part.target == H100
    with pytest.raises(UsageError, match="targets nvidia-h100, nvidia-h100: name each target once"):
        builder.build([SMALL], [H100, H100], tmp_path / "none.sqlite3")


def test_other_hardware_is_refused(path: Path) -> None:
    older = dataclasses.replace(H100, arch="sm_80", accelerator="nvidia-a100")
    with pytest.raises(BundleArchitectureError, match=r"for nvidia-h100, .* nvidia-a100 \(sm_80\)"):
        open_bundle(path, "unsigned", target=older)
    with pytest.raises(
        BundleArchitectureError, match="for nvidia-h100 alone; name the GPU: device="
    ):
        open_bundle(path, "unsigned", target=ZEN4)
    with pytest.raises(UsageError, match="target: device='cuda:0' says what"):
        tuner.load(path, selftest.weights(SMALL, 5), target=H100, device="cuda:0")


def test_a_program_lies_on_disk_as_a_binary_does(path: Path, cache: Path) -> None:
    catalogue = open_bundle(path, "unsigned", target=H100)
    selection = catalogue.select(100, "uniform", None)
    there = catalogue.binary(selection)
    assert there.read_text() == program(SMALL, selection.config["tile_n"])
    assert (there.stat().st_mode & 0o777, there.parent) == (0o400, cache / "bundles")


def fat(path: Path, host: Target) -> Path:
    """The bundle with a part for a processor besides."""
    bundle = read_bundle(path, "unsigned")
    contents = {n: bundle.archive.read(n) for n in bundle.manifest.members}
    (section,) = bundle.manifest.sections
    parts = (*section.parts, part(contents, host, SMALL))
    manifest = manifest_of((dataclasses.replace(section, parts=parts),), contents)
    path.write_bytes(packed(manifest.dump(), contents))
    return path


def test_processors_and_gpus_in_one_file(path: Path, cache: Path) -> None:
    fat(path, ZEN4)
    assert open_bundle(path, "unsigned", target=ZEN4).part.target == ZEN4
    assert open_bundle(path, "unsigned", target=H200).part.target == H100


def test_an_install_without_a_gpu(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_device._opened.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    found = install(path, "unsigned")
    assert (found.verdict, found.exit_code) == (REFUSED, 1)
    assert [note.startswith(NO_DRIVER) for note in found.results[0].notes] == [True]


def test_what_a_machine_lacks_is_a_note_where_other_code_runs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def probation(bundle: object, section: object, what: str, device: str) -> dict[str, Any]:
        asked.append(device)
        answers = [{"arch": "znver4", "worst": 1e-7, "message": ""}]
        return {"parts": answers, "speed": [], "taken": "znver4"}

    monkeypatch.setattr(installer, "probation", probation)
    monkeypatch.setattr(installer, "detect", lambda: ZEN4)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    gpu_device._opened.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", _no_library)
    found = install(fat(path, ZEN4), "unsigned", timed=False)
    (result,) = found.results
    assert (found.verdict, result.target, asked) == ("ok", "znver4", ["cpu"])
    assert NO_DRIVER in result.notes[-1]


def _no_library(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


def device_that_computes(driver: FakeDriver) -> None:
    """At a call's last launch the reference's answer is where the kernels would write it."""
    weights = selftest.weights(SMALL, selftest.SEED)
    seen: dict[str, int] = {}

    def at(name: str, dtype: Any, *shape: int) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_char * size).from_address(seen[name])
        return np.frombuffer(raw, dtype).reshape(shape)

    def run(launched: Launched) -> None:
        seen.update(launched.arguments)
        if launched.kernel != "moe_combine":
            return
        tokens = seen["tokens"]
        x, y = at("x", np.float16, tokens, 128), at("y", np.float16, tokens, 128)
        indices, chosen = at("indices", np.int32, tokens, 2), at("weights", np.float32, tokens, 2)
        if not seen["routed"]:
            indices[...], chosen[...], _ = reference.route(SMALL, weights, x)
        y[...] = reference.moe(SMALL, weights, x, (indices, chosen))

    driver.run = run


def test_the_self_test_on_a_device(path: Path, driver: FakeDriver) -> None:
    bundle = read_bundle(path, "unsigned")
    arguments = (path, bundle.sha256, SMALL.digest, "cuda:0")
    (answer,) = GpuProbation(*arguments).report("first")["parts"]
    assert answer["message"].endswith(
        "T=1 router: token 0: routed to [-1, -1]: not different experts"
    )
    device_that_computes(driver)
    told = GpuProbation(*arguments).report("first")
    assert told["parts"][0]["message"] == ""
    assert 0 < told["parts"][0]["worst"] < 2.0**-10
    assert (told["taken"], told["speed"]) == ("nvidia-h100", [])
    builds = len(bundle.manifest.sections[0].parts[0].builds)
    assert sum(launch.kernel == "moe_combine" for launch in driver.launched) == 1 + 5 * builds


def test_a_layer_from_a_bundle(path: Path, driver: FakeDriver) -> None:
    layer = tuner.load(path, selftest.weights(SMALL, 5), trust="unsigned", device="cuda")
    assert isinstance(layer, GpuLayer)
    assert layer.device == "cuda:0"
    assert layer.selection(3).match == "default"
    catalogue = layer._programs._catalogue
    assert isinstance(catalogue, BundleCatalogue)
    assert catalogue.host == H100
