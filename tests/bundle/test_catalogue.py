"""The Catalogue of a bundle: which part, which variant, and what lies on disk."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bundles import (
    ELSEWHERE,
    V2,
    V3,
    V4,
    ZEN4,
    A,
    B,
    bundle,
    contents,
    library,
    manifest_of,
    target,
)
from tests.rows import PROBLEM
from tuner.bundle import open_bundle
from tuner.bundle.build import packed
from tuner.bundle.catalogue import BundleCatalogue, folder, read_choice, write_choice
from tuner.bundle.choose import ladder
from tuner.bundle.manifest import Manifest
from tuner.errors import (
    BundleArchitectureError,
    BundleDigestError,
    BundleFolderError,
    BundleProblemError,
)
from tuner.target import Target
from tuner.target.features import LEVELS

WIDE = PROBLEM.replace(hidden=128, name="wide")
ALL = (V2, ZEN4, V3, V4)


def opened(path: Path, targets: Sequence[Target] = ALL, host: Target = ZEN4) -> BundleCatalogue:
    return open_bundle(bundle(path, targets), "unsigned", target=host)


@pytest.fixture
def catalogue(tmp_path: Path, cache: Path) -> BundleCatalogue:
    """The part of znver4 of a fat bundle, with a cache of its own."""
    return opened(tmp_path / "x.moe")


HOSTS = {
    "its own": (ZEN4, "znver4"),
    "a newer one of its family": (dataclasses.replace(ZEN4, arch="znver5"), "znver4"),
    "known by its level alone": (dataclasses.replace(ZEN4, arch="x86-64-v4"), "znver4"),
    "another family": (target("skylake-avx512", LEVELS["x86-64-v4"], vendor="intel"), "x86-64-v4"),
    "an older one": (target("znver3", LEVELS["x86-64-v3"]), "x86-64-v3"),
    "a level": (V3, "x86-64-v3"),
    "the oldest": (V2, "x86-64-v2"),
    "features that a virtual machine hides": (
        dataclasses.replace(ZEN4, features=tuple(sorted(set(ZEN4.features) - {"avx512bf16"}))),
        "x86-64-v4",
    ),
    "features that code does not use": (
        dataclasses.replace(ZEN4, features=tuple(sorted(set(ZEN4.features) - {"clzero", "xsave"}))),
        "znver4",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("host", "arch"), HOSTS.values(), ids=HOSTS)
def test_the_best_that_runs_here(tmp_path: Path, cache: Path, host: Target, arch: str) -> None:
    assert opened(tmp_path / "x.moe", host=host).part.target.arch == arch


def test_the_order_of_fallback() -> None:
    parts = contents(ALL)[0].sections[0].parts
    order = ["znver4", "x86-64-v4", "x86-64-v3", "x86-64-v2"]
    assert [part.target.arch for part in ladder(parts, ZEN4)] == order
    unnamed = dataclasses.replace(ZEN4, arch="x86-64-v4")
    assert [part.target.arch for part in ladder(parts, unnamed)] == order


def test_the_host_s_family_comes_before_a_longer_one() -> None:
    haswell, broadwell, zen3 = (
        target(arch, LEVELS["x86-64-v3"]) for arch in ("haswell", "broadwell", "znver3")
    )
    parts = contents((haswell, broadwell, zen3))[0].sections[0].parts
    assert ladder(parts, ZEN4)[0].target.arch == "znver3"


def test_nothing_runs_here(tmp_path: Path, cache: Path) -> None:
    message = (
        "code for x86-64-v3 needs avx, avx2, bmi, bmi2, which is not here; build it for x86-64-v2"
    )
    with pytest.raises(BundleArchitectureError, match=message):
        opened(tmp_path / "x.moe", (ZEN4, V3), V2)


def test_another_machine(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bundle(tmp_path / "x.moe")
    built = platform.machine()
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(
        BundleArchitectureError, match=f"it is for {built}, this machine is riscv64"
    ):
        open_bundle(path, "unsigned", target=V2)


def test_a_library_of_another_machine(tmp_path: Path, cache: Path) -> None:
    """The manifest says this machine, digests are right, the library is for another."""
    manifest, members = contents([V2])
    name = manifest.sections[0].parts[0].builds[A].binary
    members[name] = library("elsewhere", machine=ELSEWHERE)
    path = tmp_path / "x.moe"
    path.write_bytes(packed(manifest_of(manifest.sections, members).dump(), members))
    found = open_bundle(path, "unsigned", target=V2)
    with pytest.raises(BundleArchitectureError, match=f"is no library for {platform.machine()}"):
        found.binary(found.select(1, "uniform", None))


def test_several_problems(tmp_path: Path, cache: Path) -> None:
    path = bundle(tmp_path / "x.moe", [V2], [PROBLEM, WIDE])
    assert open_bundle(path, "unsigned", WIDE.replace(name=""), V2).problem == WIDE
    with pytest.raises(BundleProblemError, match="holds small, wide; name one with problem="):
        open_bundle(path, "unsigned", target=V2)
    with pytest.raises(BundleProblemError, match="holds small, wide, not wide: D=256"):
        open_bundle(path, "unsigned", WIDE.replace(hidden=256), V2)


@pytest.mark.parametrize(
    ("tokens", "load", "variant", "match", "distance"),
    [
        (0, "uniform", A, "tokens", 2.0),
        (4, "uniform", A, "exact", 0.0),
        (8, "uniform", A, "tokens", 1.0),
        (9, "uniform", B, "tokens", math.log2(64 / 9)),
        (64, "uniform", B, "exact", 0.0),
        (64, "zipf:1.20", B, "load", 1.0),
        (64, "onehot", B, "load", 1.0),
        (4, "zipf:1.2", B, "default", math.inf),
        (513, "uniform", B, "default", math.inf),
    ],
)
def test_selection(
    catalogue: BundleCatalogue, tokens: int, load: str, variant: str, match: str, distance: float
) -> None:
    found = catalogue.select(tokens, load, None)
    assert (found.variant, found.match, found.tokens) == (variant, match, tokens)
    assert found.distance == pytest.approx(distance)
    assert bool(found.evidence) == (match != "default")


def test_a_selection_says_where_it_comes_from(catalogue: BundleCatalogue) -> None:
    found = catalogue.select(8, "uniform", "p1")
    assert (
        found.reason == "of a bundle, tuned on a machine like this: tuned for 4 tokens, asked for 8"
    )
    assert (found.pack, found.target.arch) == ("p1", "znver4")


@pytest.mark.parametrize(
    ("host", "match"),
    [
        (dataclasses.replace(ZEN4, cores=64), "arch"),
        (dataclasses.replace(ZEN4, arch="x86-64-v4"), "exact"),
        (V3, "older"),
    ],
)
def test_how_a_part_matches_its_host(tmp_path: Path, cache: Path, host: Target, match: str) -> None:
    targets = (V2,) if match == "older" else (ZEN4,)
    found = opened(tmp_path / "x.moe", targets, host)
    assert found.select(4, "uniform", None).match == match


def test_a_packed_form_that_no_table_reads(catalogue: BundleCatalogue) -> None:
    with pytest.raises(BundleProblemError, match="reads the packed form p9"):
        catalogue.select(4, "uniform", "p9")


def test_binaries_are_private_and_named_by_their_content(catalogue: BundleCatalogue) -> None:
    path = catalogue.binary(catalogue.select(4, "uniform", None))
    content = path.read_bytes()
    assert content == library("znver4 k_a1")
    assert path.name == f"{hashlib.sha256(content).hexdigest()}.so"
    assert (path.stat().st_mode & 0o7777, path.parent.stat().st_mode & 0o7777) == (0o500, 0o700)
    assert not list(path.parent.glob(".part-*"))


def test_an_altered_binary_is_replaced(catalogue: BundleCatalogue) -> None:
    selection = catalogue.select(4, "uniform", None)
    path = catalogue.binary(selection)
    sound = path.read_bytes()
    path.chmod(0o700)
    path.write_bytes(sound[:-1] + b"!")
    assert catalogue.binary(selection).read_bytes() == sound


@pytest.mark.parametrize("mode", [0o520, 0o502, 0o722])
def test_a_binary_that_others_may_write_is_replaced(catalogue: BundleCatalogue, mode: int) -> None:
    selection = catalogue.select(4, "uniform", None)
    catalogue.binary(selection).chmod(mode)
    assert catalogue.binary(selection).stat().st_mode & 0o7777 == 0o500


def test_a_link_in_its_place_is_replaced(catalogue: BundleCatalogue, tmp_path: Path) -> None:
    selection = catalogue.select(4, "uniform", None)
    path = catalogue.binary(selection)
    elsewhere = tmp_path / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert not catalogue.binary(selection).is_symlink()
    assert elsewhere.read_bytes() == path.read_bytes()


def test_a_disk_that_gives_back_something_else(
    catalogue: BundleCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(number: int, mode: int) -> None:
        os.ftruncate(number, 10)

    monkeypatch.setattr(os, "fchmod", damaged)
    with pytest.raises(BundleDigestError, match="does not read back as written"):
        catalogue.binary(catalogue.select(4, "uniform", None))


def test_a_folder_that_is_open_to_others(tmp_path: Path, cache: Path) -> None:
    folder().mkdir(parents=True)
    folder().chmod(0o755)
    with pytest.raises(BundleFolderError, match="open to others"):
        opened(tmp_path / "x.moe")


def test_a_folder_that_is_a_link(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o700)
    cache.mkdir()
    folder().symlink_to(tmp_path / "theirs")
    with pytest.raises(BundleFolderError, match="is no folder"):
        opened(tmp_path / "x.moe")


def test_a_folder_of_another_user(
    catalogue: BundleCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(BundleFolderError, match="belongs to another user"):
        catalogue.binary(catalogue.select(4, "uniform", None))


def test_what_an_install_chose_is_run(tmp_path: Path, cache: Path) -> None:
    found = opened(tmp_path / "x.moe")
    write_choice(found.bundle, found.section, ZEN4, "x86-64-v3")
    assert opened(tmp_path / "x.moe").part.target.arch == "x86-64-v3"


def test_a_choice_counts_for_its_host_and_bundle_alone(tmp_path: Path, cache: Path) -> None:
    found = opened(tmp_path / "x.moe")
    write_choice(found.bundle, found.section, ZEN4, "x86-64-v3")
    more_cores = dataclasses.replace(ZEN4, cores=64)
    assert read_choice(found.bundle, found.section, more_cores) == ""
    assert opened(tmp_path / "y.moe", (ZEN4, V3)).part.target.arch == "znver4"


def test_a_choice_of_what_is_not_there(tmp_path: Path, cache: Path) -> None:
    found = opened(tmp_path / "x.moe")
    write_choice(found.bundle, found.section, ZEN4, "znver5")
    assert opened(tmp_path / "x.moe").part.target.arch == "znver4"
    (path,) = folder().glob("*.json")
    path.write_text("no json")
    assert opened(tmp_path / "x.moe").part.target.arch == "znver4"


def test_a_changed_manifest_forgets_the_choice(tmp_path: Path, cache: Path) -> None:
    found = opened(tmp_path / "x.moe")
    write_choice(found.bundle, found.section, ZEN4, "x86-64-v3")

    def other(manifest: Manifest) -> Manifest:
        return dataclasses.replace(manifest, toolchain="Mojo 2.0")

    path = bundle(tmp_path / "x.moe", ALL, change=other)
    assert open_bundle(path, "unsigned", target=ZEN4).part.target.arch == "znver4"
