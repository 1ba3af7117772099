"""Names of processors without a compiler."""

from __future__ import annotations

import platform

import pytest

from tuner.target import cpu_models, detect, features, supported, target
from tuner.target.cpu_models import arch_of

V3, V4 = features.LEVELS["x86-64-v3"], features.LEVELS["x86-64-v4"]


def info(vendor: str, family: int, model: int) -> dict[str, str]:
    return {"vendor_id": vendor, "cpu family": str(family), "model": str(model)}


@pytest.mark.parametrize(
    ("fields", "more", "name"),
    [
        (info("GenuineIntel", 6, 143), set(), "sapphirerapids"),
        (info("GenuineIntel", 6, 207), set(), "emeraldrapids"),
        (info("GenuineIntel", 6, 85), set(), "skylake-avx512"),
        (info("GenuineIntel", 6, 85), {"avx512vnni"}, "cascadelake"),
        (info("GenuineIntel", 6, 85), {"avx512vnni", "avx512bf16"}, "cooperlake"),
        (info("AuthenticAMD", 25, 17), set(), "znver4"),
        (info("AuthenticAMD", 26, 2), set(), "znver5"),
        (info("AuthenticAMD", 21, 2), set(), "x86-64-v4"),
        (info("Somebody", 6, 143), set(), "x86-64-v4"),
        ({}, set(), "x86-64-v4"),
    ],
)
def test_by_its_numbers(fields: dict[str, str], more: set[str], name: str) -> None:
    assert arch_of(fields, V4 | more) == name


def test_a_guest_that_may_not_use_all_of_it_is_known_by_its_level() -> None:
    assert arch_of(info("GenuineIntel", 6, 143), V3) == "x86-64-v3"
    assert arch_of(info("AuthenticAMD", 25, 1), V3) == "znver3"


def test_arm() -> None:
    fields = {"CPU implementer": "0x41", "CPU part": "0xd0c"}
    assert arch_of(fields, {"neon"}) == "neoverse-n1"
    assert arch_of({**fields, "CPU part": "0x001"}, {"neon"}) == "generic"


@pytest.mark.compiler
def test_the_compiler_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with_compiler, known = detect(), supported()
    monkeypatch.setattr(target, "find_mojo", lambda: None)
    assert detect().arch in (with_compiler.arch, *features.LEVELS)
    named = {*cpu_models._INTEL.values(), *(row[3] for row in cpu_models._AMD)}
    assert platform.machine() != "x86_64" or named <= set(known)
