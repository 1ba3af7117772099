from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.errors import TargetError
from tuner.host import caches, quota
from tuner.target import (
    Target,
    can_run,
    compile_flags,
    detect,
    features,
    gpus,
    level,
    named,
    older,
    simd_bytes,
    target,
)

ZEN4 = Target(
    vendor="amd",
    arch="znver4",
    features=("avx2", "avx512f"),
    cores=8,
    l1d_bytes=32 << 10,
    l2_bytes=1 << 20,
    l3_bytes=32 << 20,
    name="Some Processor",
)

CPUINFO = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Some Xeon
flags\t\t: fpu cx8 cmov mmx fxsr sse sse2 pni ssse3 fma cx16 sse4_1 sse4_2 movbe popcnt xsave avx \
f16c abm lahf_lm bmi1 avx2 bmi2 hypervisor vme

processor\t: 1
vendor_id\t: Other
"""


@pytest.fixture(autouse=True)
def fresh_answers() -> Iterator[None]:
    """What the module remembers for the life of a process belongs to one test here."""

    def forget() -> None:
        for function in (target._features, target._remembered, target._supported):
            function.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def no_mojo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "find_mojo", lambda: None)
    monkeypatch.setattr(target, "_machine", lambda: "x86_64")


@pytest.fixture
def xeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_mojo: None) -> None:
    """A machine as the system describes it, without a compiler."""
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(target, "_CPUINFO", tmp_path / "cpuinfo")
    for index, facts in enumerate(
        (("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "2M"))
    ):
        folder = tmp_path / "caches" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in zip(("type", "level", "size"), facts, strict=True):
            (folder / name).write_text(f"{value}\n")
    monkeypatch.setattr(caches, "_FOLDER", tmp_path / "caches")
    monkeypatch.setattr(quota, "_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 2, 5})


def test_key_round_trip() -> None:
    key = json.loads(json.dumps(ZEN4.key))
    assert list(key) == sorted(key)
    assert Target.from_key(key) == ZEN4
    assert Target.from_key(key).digest == ZEN4.digest


def test_the_label_is_no_part_of_the_key() -> None:
    renamed = dataclasses.replace(ZEN4, name="Other Processor")
    assert renamed == ZEN4
    assert renamed.digest == ZEN4.digest
    assert dataclasses.replace(ZEN4, cores=4).digest != ZEN4.digest


@pytest.mark.parametrize("key", [{}, {"arch": "znver4"}, {**ZEN4.key, "colour": "red"}])
def test_a_wrong_key(key: dict[str, object]) -> None:
    with pytest.raises(TargetError, match="give the fields of Target"):
        Target.from_key(key)


def test_describe() -> None:
    assert ZEN4.describe() == (
        "znver4 (Some Processor): 8 cores, SIMD 512 bit, L1d 32 KiB, L2 1 MiB, L3 32 MiB"
    )


@pytest.mark.parametrize(("names", "width"), [(("avx2", "avx512f"), 64), (("avx2",), 32), ((), 16)])
def test_simd_bytes(names: tuple[str, ...], width: int) -> None:
    assert simd_bytes(dataclasses.replace(ZEN4, features=names)) == width


def test_can_run_needs_what_code_uses() -> None:
    assert can_run(ZEN4, ("avx2",))
    assert not can_run(ZEN4, ("avx2", "avx512bf16"))


def test_can_run_without_what_code_never_uses() -> None:
    """Virtual machines hide these, and a named architecture lists them all the same."""
    assert can_run(ZEN4, ("avx2", "mwaitx", "pku", "wbnoinvd"))


@pytest.mark.parametrize("name", features.LEVELS)
def test_level_of_each_level(name: str) -> None:
    names = tuple(features.LEVELS[name])
    assert level(dataclasses.replace(ZEN4, features=names)) == name


def test_older_is_newest_first_and_avx512_before_avx2() -> None:
    assert older("znver5") == (
        *("znver4", "x86-64-v4", "znver3", "znver2", "znver1"),
        *("x86-64-v3", "x86-64-v2", "x86-64"),
    )
    assert older("x86-64-v3") == ("x86-64-v2", "x86-64")
    assert older("neoverse-v2") == ("neoverse-n2", "neoverse-n1", "generic")


def test_older_never_guesses() -> None:
    assert older("some-new-processor") == ()


@pytest.mark.usefixtures("xeon")
def test_detect_without_a_compiler() -> None:
    found = detect()
    assert (found.vendor, found.arch, found.name) == ("intel", "x86-64-v3", "Some Xeon")
    assert (found.l1d_bytes, found.l2_bytes, found.l3_bytes) == (48 << 10, 2 << 20, 0)
    assert found.cores == 3
    assert {"sse4.2", "crc32", "sse3", "lzcnt", "bmi"} < set(found.features)
    assert not {"hypervisor", "vme", "pni"} & set(found.features)


def test_caches_of_a_container_that_hides_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caches, "_FOLDER", tmp_path / "absent")
    numbers = {188: 48 << 10, 191: 2 << 20, 194: 100 << 20}
    monkeypatch.setattr(os, "sysconf", lambda number: numbers[number])
    monkeypatch.setattr(caches.platform, "libc_ver", lambda: ("glibc", "2.35"))
    assert caches.sizes() == {1: 48 << 10, 2: 2 << 20, 3: 100 << 20}
    monkeypatch.setattr(caches.platform, "libc_ver", lambda: ("", ""))
    assert caches.sizes() == {}


@pytest.mark.usefixtures("xeon")
def test_named_level_without_a_compiler() -> None:
    found = named("x86-64-v2")
    assert found.arch == "x86-64-v2"
    assert set(found.features) == features.LEVELS["x86-64-v2"]
    assert found.l2_bytes == detect().l2_bytes


@pytest.mark.usefixtures("no_mojo")
def test_the_first_level_has_two_names() -> None:
    assert named("x86-64-v1") == named("x86-64")


@pytest.mark.usefixtures("no_mojo")
def test_unknown_target_names_the_closest() -> None:
    with pytest.raises(TargetError, match=r"target 'x86-64-v9': not known; did you mean x86-64-v"):
        named("x86-64-v9")


@pytest.mark.usefixtures("no_mojo")
def test_unknown_target_close_to_nothing() -> None:
    with pytest.raises(TargetError, match="not known; `moetune doctor` names this machine's"):
        named("qqqq")


@pytest.mark.usefixtures("no_mojo")
def test_compile_flags_are_a_function_of_the_target() -> None:
    v2 = dataclasses.replace(ZEN4, arch="x86-64-v2", features=("sse", "sse2"))
    cpu, arch, option, listed = compile_flags(v2)
    assert (cpu, arch, option) == ("--target-cpu", "x86-64-v2", "--target-features")
    assert listed.startswith("+sse,+sse2,-cmov")
    assert "-popcnt" in listed.split(",")


@pytest.mark.compiler
def test_detect_asks_the_compiler_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = detect()
    assert found.arch in target.supported()
    assert found.features == tuple(sorted(found.features))
    target._remembered.cache_clear()
    monkeypatch.setattr(target, "_ask", lambda *_: pytest.fail("asked again"))
    assert detect() == found


@pytest.mark.compiler
def test_a_damaged_memory_is_asked_again(cache: Path) -> None:
    found = detect()
    (memory,) = cache.glob("host-*.json")
    memory.write_text('{"arch": "znv')
    target._remembered.cache_clear()
    assert detect() == found
    assert json.loads(memory.read_text())["arch"] == found.arch


@pytest.mark.compiler
def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOETUNE_CACHE", str(tmp_path / "file" / "cache"))
    assert detect().features


@pytest.mark.compiler
def test_a_named_target_is_complete_on_any_host() -> None:
    znver5 = named("znver5")
    assert "movdir64b" in znver5.features
    assert level(znver5) == "x86-64-v4"
    assert named("host") == detect()


@pytest.mark.compiler
def test_the_levels_are_the_compilers() -> None:
    for name, listed in features.LEVELS.items():
        assert set(target._features_of(name)) == listed


@pytest.mark.compiler
def test_the_fallback_list_is_true() -> None:
    """Each architecture has every feature that code for its older ones uses."""
    here = set(target.supported())
    for newer, after in features._NEXT_OLDER.items():
        if newer in here:
            assert features.runs(target._features_of(newer), target._features_of(after)), newer
    for first in features._FIRST_V4 & here:
        assert features.LEVELS["x86-64-v4"] <= set(target._features_of(first))


@pytest.mark.compiler
def test_cpuinfo_agrees_with_the_compiler_about_this_machine() -> None:
    flags = target._cpuinfo().get("flags", "").split()
    used = set(features.from_cpuinfo(flags)) - features.UNUSED_BY_CODE
    assert used <= set(detect().features)
    assert features.level_of(used) == level(detect())


def test_a_card_is_a_target() -> None:
    h200 = named("nvidia-h200")
    assert (h200.kind, h200.arch, h200.accelerator) == ("gpu", "sm_90a", "nvidia-h200")
    assert compile_flags(h200) == ("--target-accelerator", "sm_90a")
    assert h200.digest != named("nvidia-h100").digest
    assert Target.from_key(h200.key) == h200
    assert h200.describe().startswith("nvidia-h200 (NVIDIA H200): sm_90a, 132 multiprocessors, ")


def test_a_card_by_what_its_driver_calls_it() -> None:
    card = gpus.by_label("NVIDIA H100 80GB HBM3")
    assert card == gpus.CARDS["nvidia-h100"]
    assert gpus.by_label("NVIDIA H1") is None
