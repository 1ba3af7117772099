"""Bundles of real kernels: built, installed, and run as the tuned session ran them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.bundles import manifest_of
from tests.kernels import TINY, tokens, variant
from tests.shipped import TUNED
from tuner.bundle import install as installer
from tuner.bundle import open_bundle, selftest
from tuner.bundle.build import build, packed
from tuner.bundle.elf import without_search_path
from tuner.bundle.install import OK, REFUSED, SLOWER, install, prove
from tuner.bundle.reader import Bundle, read_bundle
from tuner.codegen.compile import compile_source, toolchain_version
from tuner.codegen.render import render
from tuner.errors import SelfTestError, UsageError
from tuner.problem.weights import Weights
from tuner.target import detect

pytestmark = pytest.mark.compiler

WEIGHTS = Weights.random(TINY, 2)


@pytest.fixture(scope="module")
def db(tiny_db: Path) -> Path:
    return tiny_db


@pytest.fixture(scope="module")
def made(tiny_bundle: bytes) -> bytes:
    return tiny_bundle


@pytest.fixture
def path(made: bytes, tmp_path: Path) -> Path:
    (tmp_path / "tiny.moe").write_bytes(made)
    return tmp_path / "tiny.moe"


def changed(path: Path, members: dict[str, bytes], **fields: Any) -> Path:
    """The bundle with some members and fields of its only section replaced, and right digests."""
    bundle = read_bundle(path, "unsigned")
    names = bundle.manifest.members
    contents = {name: bundle.archive.read(name) for name in names} | members
    (section,) = bundle.manifest.sections
    manifest = manifest_of((dataclasses.replace(section, **fields),), contents)
    path.write_bytes(packed(manifest.dump(), contents))
    return path


def test_the_same_database_gives_the_same_bytes(made: bytes, db: Path) -> None:
    assert build([TINY], [detect()], db) == made


def test_what_is_in_it(path: Path, db: Path) -> None:
    manifest = read_bundle(path, "unsigned").manifest
    (part,) = manifest.sections[0].parts
    winner = variant(TINY)
    assert (part.tuned, list(part.builds)) == (True, [winner.name])
    assert [rule.up_to_tokens for rule in part.tables["uniform"].rules] == [None]
    assert [(row.tokens, row.load) for row in part.evidence] == [(t, "uniform") for t in TUNED]
    assert part.builds[winner.name].config == winner.config
    assert manifest.toolchain == toolchain_version()
    assert part.target.key == detect().key


def test_bin_holds_kernels_and_nothing_else(path: Path) -> None:
    """Who takes all libraries of bin/ for kernels must not meet a probe there."""
    manifest = read_bundle(path, "unsigned").manifest
    (part,) = manifest.sections[0].parts
    kernels = {name for name in manifest.members if name.startswith("bin/")}
    assert kernels == {built.binary for built in part.builds.values()}
    assert part.probe == f"probe/{TINY.digest}/{detect().label}.so"


def test_one_problem_on_one_target_is_small(made: bytes) -> None:
    assert len(made) < 1_000_000


def test_no_path_of_this_machine_is_in_it(path: Path) -> None:
    bundle = read_bundle(path, "unsigned")
    text = b"".join(bundle.archive.read(name) for name in bundle.archive.sizes)
    assert str(Path(sys.executable).parents[1]).encode() not in text
    assert str(Path.home()).encode() not in text


def test_sources_are_those_of_the_binaries(path: Path) -> None:
    bundle = read_bundle(path, "unsigned")
    (built,) = bundle.manifest.sections[0].parts[0].builds.values()
    text = bundle.archive.read(built.source).decode()
    assert text == render(TINY, variant(TINY)).text
    compiled = compile_source(text, built.target).path.read_bytes()
    assert bundle.archive.read(built.binary) == without_search_path(compiled)


@pytest.mark.parametrize("count", [1, 13, 200])
def test_a_bundle_runs_as_the_tuned_session(path: Path, db: Path, count: int) -> None:
    tuned = tuner.load(TINY, WEIGHTS, db)
    shipped = tuner.load(path, WEIGHTS, trust="unsigned")
    x = tokens(TINY, count)
    assert shipped.selection(count).variant == tuned.selection(count).variant
    np.testing.assert_array_equal(shipped(x), tuned(x))


def test_selection_is_the_database_s(path: Path, db: Path) -> None:
    catalogue = open_bundle(path, "unsigned")
    for count in (1, 3, 64, 100, 5000, 1 << 20):
        tuned = tuner.best_config(TINY, count, db=db)
        shipped = catalogue.select(count, "uniform", None)
        assert (shipped.variant, shipped.pack) == (tuned.variant, tuned.pack)


def test_an_install_that_is_ok(path: Path) -> None:
    found = install(path, "unsigned")
    (result,) = found.results
    assert (found.verdict, found.exit_code, result.problem) == (OK, 0, "tiny")
    assert result.notes == (f"winners tuned for {detect().arch}",)
    assert 0 < result.worst < 1e-5
    assert [(cell["tokens"], cell["slower"]) for cell in result.speed] == [(1, False)]
    json.dumps(found.to_json(), allow_nan=False)


def test_an_install_that_is_slower(path: Path) -> None:
    """The bundle claims a hundred times the ceiling."""
    (section,) = read_bundle(path, "unsigned").manifest.sections
    (part,) = section.parts
    first, *rest = part.evidence
    claimed = dataclasses.replace(first, row={**first.row, "ceiling_fraction": 100.0})
    part = dataclasses.replace(part, evidence=(claimed, *rest))
    found = install(changed(path, {}, parts=(part,)), "unsigned")
    assert (found.verdict, found.exit_code) == (SLOWER, 0)
    assert "nothing else in it is faster" in found.results[0].notes[1]


def test_an_install_without_its_speed(path: Path) -> None:
    found = install(path, "unsigned", timed=False)
    assert (found.verdict, found.results[0].speed) == (OK, ())


def test_answers_that_are_wrong_are_refused(path: Path) -> None:
    (section,) = read_bundle(path, "unsigned").manifest.sections
    name = section.selftest.cases[0].arrays["y"]
    y = np.frombuffer(read_bundle(path, "unsigned").archive.read(name)).copy()
    y[0] += 1e-3 * np.linalg.norm(y)
    found = install(changed(path, {name: y.tobytes()}), "unsigned")
    assert (found.verdict, found.exit_code) == (REFUSED, 1)
    assert "wrong answers from code for" in found.results[0].notes[0]
    with pytest.raises(SelfTestError, match="T=1 router: relative error 1"):
        prove(path, "unsigned")


def test_code_that_crashes_is_refused(path: Path) -> None:
    """Its pack function becomes an illegal instruction: this process goes on."""
    bundle = read_bundle(path, "unsigned")
    (built,) = bundle.manifest.sections[0].parts[0].builds.values()
    library = bundle.archive.read(built.binary)
    symbols = subprocess.run(
        ["nm", "-D", str(open_bundle(path, "unsigned").member(built.binary))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (at,) = (
        int(line.split()[0], 16) for line in symbols.stdout.splitlines() if "T moe_pack" in line
    )
    broken = library[:at] + b"\x0f\x0b" + library[at + 2 :]  # ud2; text lies at its own address
    found = install(changed(path, {built.binary: broken}), "unsigned")
    assert found.verdict == REFUSED
    assert found.results[0].notes == ("the self-test was ended by signal 4; don't run it here",)


def test_weights_that_are_other_ones_are_noticed(path: Path) -> None:
    (section,) = read_bundle(path, "unsigned").manifest.sections
    other = dataclasses.replace(section.selftest, weights_sha256="0" * 64)
    found = install(changed(path, {}, selftest=other), "unsigned")
    assert found.results[0].notes == (
        "NumPy gives other weights than where this was built; upgrade NumPy",
    )


def test_a_slower_part_gives_way_to_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the measuring process found is taken: the report is its own."""
    bundle = read_bundle(path, "unsigned")
    (section,) = bundle.manifest.sections
    (part,) = section.parts
    features = tuple(name for name in part.target.features if name != "sse4a")
    older = dataclasses.replace(
        part, target=dataclasses.replace(part.target, arch="x86-64-v4", features=features)
    )
    changed(path, {}, parts=(part, older))

    def report(bundle: Bundle, section: object, what: str, device: str) -> dict[str, Any]:
        cell = {"tokens": 1, "load": "uniform", "slower": True, "foreign": 0.0}
        parts = [{"arch": p, "worst": 1e-7, "message": ""} for p in (detect().arch, "x86-64-v4")]
        return {"parts": parts, "speed": [cell], "taken": "x86-64-v4"}

    monkeypatch.setattr(installer, "probation", report)
    found = install(path, "unsigned")
    assert (found.verdict, found.results[0].target) == (SLOWER, "x86-64-v4")
    assert "falls back to code for x86-64-v4" in found.results[0].notes[1]
    assert open_bundle(path, "unsigned").part.target.arch == "x86-64-v4"


def test_each_problem_and_target_once(db: Path) -> None:
    with pytest.raises(UsageError, match=r"problems tiny: .*: name each problem once"):
        build([TINY, TINY], [detect()], db)
    with pytest.raises(UsageError, match="targets none: name each target once"):
        build([TINY], [], db)


@pytest.mark.parametrize(
    ("dtype", "sha256"),
    [
        ("float32", "d0f84ce3de642da4d9c80b88487ebba632b2091875b9e0694f92f2a5505a1186"),
        ("float16", "94ab98643da00f5f0d65477b8c969e0c25e1567dcd22c9ad4f4ee49e930b0464"),
        ("bfloat16", "893246d094b44cb29a16c6f3110868b9cb88580c471fa871246e00d85f09013a"),
    ],
)
def test_weights_of_the_self_test_are_what_they_were(dtype: str, sha256: str) -> None:
    """Any other words of PCG64, or another rounding, would change this."""
    problem = TINY.replace(dtype=dtype, weight_dtype=dtype)
    assert selftest.digest(selftest.weights(problem, 5)) == sha256


def test_weights_of_the_self_test_have_the_right_size() -> None:
    made = selftest.weights(TINY, 5)
    assert made.up.std() * np.sqrt(48) == pytest.approx(1, rel=0.05)
    assert abs(made.up.mean()) < 0.01
