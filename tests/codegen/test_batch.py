from __future__ import annotations

import ctypes
import json
from pathlib import Path

import pytest

from tuner.codegen.batch import compile_together
from tuner.codegen.compile import compile_source
from tuner.target import Target, detect

# A function that is not inlined, a constant in memory, a name that all sources have.
SOURCE = """\
comptime Number = Int64
comptime FACTOR = Float32(N.25)


@no_inline
def scaled(a: Number) -> Float32:
    return Float32(a) * FACTOR


@export
def scale(
    a: Number,
) abi("C") -> Float32:
    return scaled(a)
"""
ONE, TWO, THREE = (SOURCE.replace("N.", f"{n}.") for n in (1, 2, 3))
TEN_S = 10.0
FAKE = Target("any", "x86-64", ("sse2",), 1, 0, 0, 0)

RETURNS = ".text\n\t.globl NAME\nNAME:\n\tBODY\n\t.size\tNAME, 1\n\n"

# What a compiler may do where it is asked for several sources at once: what it prints, and the rest.
FAILURES = {
    "refuses": ("", "echo 'kernel1.mojo:1:1: error: no' >&2; exit 1"),
    "hangs": ("", "sleep 60"),
    "is killed": ("", "kill -9 $$"),
    "prints garbage": ("\0call:\n", ""),
    "leaves one out": ("\t" + RETURNS.replace("NAME", "kernel0_scale"), ""),
    "refers to nothing": (
        "\t" + RETURNS.replace("NAME", "kernel1_scale").replace("BODY", "call none"),
        "",
    ),
}


@pytest.fixture
def mojo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the compiler; `act` beside it says what it does with several sources."""
    script = tmp_path / "mojo"
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Mojo 9.9"; exit; fi
for word; do [ "$last" = -o ] && out=$word; last=$word; done
case "$out" in
*.s) cat {tmp_path}/printed > "$out"; . {tmp_path}/act;;
*) printf alone > "$out";;
esac
"""
    )
    script.chmod(0o755)
    (tmp_path / "printed").write_text("")
    monkeypatch.setattr("tuner.host.toolchain.find_mojo", lambda: script)
    return script


def call(library: Path) -> float:
    function = ctypes.CDLL(str(library)).scale
    function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_float
    return float(function(4))


@pytest.mark.compiler
def test_each_source_has_a_binary_of_its_own_whatever_is_beside_it(
    cache: Path, tmp_path: Path
) -> None:
    first = compile_together([ONE, TWO], detect(), timeout_s=TEN_S * 6)
    second = compile_together([TWO, THREE], detect(), timeout_s=TEN_S * 6, cache=tmp_path / "other")
    assert [call(first[ONE].path), call(first[TWO].path), call(second[THREE].path)] == [5, 9, 13]
    assert first[TWO].path.read_bytes() == second[TWO].path.read_bytes()
    found = compile_source(ONE, detect())
    assert (found.path, found.cached) == (first[ONE].path, True)
    assert {path.name for path in found.path.parent.iterdir()} == {
        *("kernel.so", "kernel.mojo", "build.json", "stderr.txt")
    }
    facts = json.loads((found.path.parent / "build.json").read_text())
    assert (facts["together"], facts["seconds"]) == (2, first[TWO].seconds)
    assert compile_together([TWO, ONE], detect(), timeout_s=TEN_S) == {}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_together_is_built_alone(what: str, mojo: Path, cache: Path) -> None:
    printed, act = FAILURES[what]
    mojo.with_name("printed").write_text(printed.replace("BODY", "ret"))
    mojo.with_name("act").write_text(act)
    built = compile_together([ONE, TWO], FAKE, timeout_s=0.3 if what == "hangs" else TEN_S)
    assert list(built) == [ONE] * (what == "leaves one out")
    for text in {ONE, TWO} - set(built):
        assert compile_source(text, FAKE).path.read_text() == "alone"
    assert list(cache.rglob(".build-*")) == []


def test_nothing_is_built_together_where_one_is_new(mojo: Path, cache: Path) -> None:
    mojo.with_name("act").write_text("exit 7")
    compile_source(ONE, FAKE)
    assert compile_together([ONE, TWO], FAKE, timeout_s=TEN_S) == {}
    assert compile_together([TWO], FAKE, timeout_s=TEN_S) == {}
