"""Small bundles that need no compiler: their libraries are an ELF header and some bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.rows import PROBLEM
from tuner.bundle.archive import MANIFEST, write
from tuner.bundle.build import packed
from tuner.bundle.manifest import (
    BundledBuild,
    Evidence,
    Manifest,
    Member,
    Part,
    Section,
    SelfTest,
    SelfTestCase,
    Table,
    TableRule,
)
from tuner.cpu.kernel import ABI
from tuner.problem import Problem
from tuner.target import Target
from tuner.target.features import LEVELS

ROW = {"median_ns": 1000.5, "ceiling_fraction": 0.5, "temperature": "warm"}
A, B = "k_a1", "k_a2"


# This machine's number in the header of a library, and another's.
HERE, ELSEWHERE = (183, 62) if platform.machine() == "aarch64" else (62, 183)


def library(text: str, machine: int = HERE) -> bytes:
    """Bytes that begin as a library of this ELF machine."""
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 3, machine)
    return header + text.encode() * 40


def target(arch: str, features: Sequence[str] | None = None, **more: Any) -> Target:
    """A target with the features of a level, unless given."""
    names = LEVELS.get(arch, frozenset()) if features is None else features
    made = Target("amd", arch, tuple(sorted(names)), 4, 32 << 10, 512 << 10, 32 << 20)
    return dataclasses.replace(made, **more)


V2, V3, V4 = (target(f"x86-64-v{level}") for level in (2, 3, 4))
ZEN4 = target("znver4", sorted(LEVELS["x86-64-v4"] | {"avx512bf16", "sse4a", "clzero"}))


def part(members: dict[str, bytes], where: Target, problem: Problem = PROBLEM) -> Part:
    """Two kernels: A up to 8 tokens, B above; measured at 4 and 64."""
    place = f"bin/{problem.digest}/{where.arch}"
    builds = {}
    for variant in (A, B):
        binary, source = f"{place}/{variant}.so", f"src/{problem.digest}/{variant}.mojo"
        members[binary] = library(f"{where.arch} {variant}")
        members[source] = f"# {variant}\n".encode()
        builds[variant] = BundledBuild("k", variant, {"a": 1}, "p1", binary, source, where)
    members[f"probe/{problem.digest}/{where.arch}.so"] = library(f"{where.arch} probe")
    rules = (TableRule(8, A), TableRule(None, B))
    return Part(
        target=where,
        machine=platform.machine(),
        tuned=True,
        note=f"winners tuned for {where.arch}",
        builds=builds,
        tables={"uniform": Table("p1", rules), "zipf:1.2": Table("p1", (TableRule(None, B),))},
        evidence=(Evidence(4, "uniform", A, ROW), Evidence(64, "uniform", B, ROW)),
        probe=f"probe/{problem.digest}/{where.arch}.so",
    )


def contents(
    targets: Sequence[Target] = (V2,), problems: Sequence[Problem] = (PROBLEM,)
) -> tuple[Manifest, dict[str, bytes]]:
    """A manifest and the members that it lists."""
    members: dict[str, bytes] = {}
    sections = []
    for problem in problems:
        name = f"selftest/{problem.digest}/0/x.bin"
        members[name] = b"x" * 64
        selftest = SelfTest(5, "0" * 64, (SelfTestCase(1, "router", {"x": name}),))
        parts = tuple(part(members, where, problem) for where in targets)
        sections.append(Section(problem, selftest, parts))
    return manifest_of(tuple(sections), members), members


def manifest_of(sections: tuple[Section, ...], members: dict[str, bytes]) -> Manifest:
    listed = {n: Member(len(c), hashlib.sha256(c).hexdigest()) for n, c in sorted(members.items())}
    return Manifest(ABI, "0.1.0", "Mojo 1.0", listed, sections)


def bundle(
    path: Path,
    targets: Sequence[Target] = (V2,),
    problems: Sequence[Problem] = (PROBLEM,),
    key: Path | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
) -> Path:
    """Write a bundle; `change` may falsify its manifest before it is signed."""
    manifest, members = contents(targets, problems)
    path.write_bytes(packed(change(manifest).dump(), members, key))
    return path


def rewritten(path: Path, manifest: bytes, members: dict[str, bytes]) -> Path:
    """Write a bundle of these very bytes, in this order."""
    path.write_bytes(write({MANIFEST: manifest, **members}))
    return path
