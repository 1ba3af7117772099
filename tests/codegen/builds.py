"""A source to build, a stand-in for the compiler, and what a cache holds."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tuner.codegen.compile import (
    Binary,
)
from tuner.target import Target

SOURCE = """\
@export
def add(a: Int64, b: Int64) abi("C") -> Int64:
    return a + b
"""

FAKE = Target("any", "x86-64", ("sse2",), 1, 0, 0, 0)


@pytest.fixture
def mojo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the compiler: what it should do is written into ``tmp_path/act``.

    It counts its builds in ``tmp_path/builds`` and puts ``library`` at its -o.
    """
    script = tmp_path / "mojo"
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Mojo 9.9"; exit; fi
echo x >> {tmp_path}/builds
for word; do [ "$last" = -o ] && out=$word; last=$word; done
printf library > "$out"
. {tmp_path}/act
"""
    )
    script.chmod(0o755)
    (tmp_path / "act").write_text("")
    monkeypatch.setattr("tuner.host.toolchain.find_mojo", lambda: script)
    monkeypatch.setattr("tuner.target.target.find_mojo", lambda: None)
    return script


def builds(mojo: Path) -> int:
    counter = mojo.with_name("builds")
    return len(counter.read_text().splitlines()) if counter.exists() else 0


def act(mojo: Path, script: str) -> None:
    mojo.with_name("act").write_text(script)


def left_in(cache: Path) -> list[str]:
    """Names of unfinished or abandoned builds."""
    return [path.name for path in cache.rglob(".build-*")]


def call_add(binary: Binary) -> int:
    library = ctypes.CDLL(str(binary.path))
    library.add.argtypes = [ctypes.c_int64, ctypes.c_int64]
    library.add.restype = ctypes.c_int64
    return int(library.add(40, 2))
