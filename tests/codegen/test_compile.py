"""Builds: what is made of a source, by what key it is kept, and what is found again."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.codegen.builds import FAKE, SOURCE, act, builds, call_add, left_in, mojo
from tuner.codegen import compile as stage
from tuner.codegen.compile import (
    Binary,
    CompilerFailed,
    compile_source,
    is_cached,
)
from tuner.codegen.render import render
from tuner.errors import CompileError
from tuner.gpu.ptx import parse
from tuner.host.paths import cache_dir
from tuner.host.staging import build_folder
from tuner.host.toolchain import find_linker, toolchain_version
from tuner.problem import PRESETS
from tuner.space.variant import default_variant
from tuner.target import detect, named

__all__ = ["mojo"]


@pytest.mark.compiler
def test_compile_load_call_and_find_again(cache: Path) -> None:
    first = compile_source(SOURCE, detect())
    assert call_add(first) == 42
    assert not first.cached
    assert first.path == cache / first.key[:2] / first.key / "kernel.so"
    assert {path.name for path in first.path.parent.iterdir()} == {
        *("kernel.so", "kernel.mojo", "build.json", "stderr.txt")
    }
    assert (first.path.parent / "kernel.mojo").read_text() == SOURCE
    assert compile_source(SOURCE, detect()) == dataclasses.replace(first, cached=True)
    assert left_in(cache) == []


@pytest.mark.compiler
def test_a_build_for_another_architecture_runs_here() -> None:
    portable = compile_source(SOURCE, named("x86-64-v2"))
    assert call_add(portable) == 42
    facts = json.loads((portable.path.parent / "build.json").read_text())
    assert facts["flags"][:2] == ["--target-cpu", "x86-64-v2"]
    assert facts["toolchain"] == toolchain_version()


@pytest.mark.compiler
def test_a_refused_source_keeps_its_first_error_and_is_not_tried_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = r"^kernel\.mojo:1:8: error: expected argument name$"
    with pytest.raises(CompileError, match=message):
        compile_source("def f( : ", detect())
    (stderr,) = cache.rglob("stderr.txt")
    assert "failed to parse the provided Mojo source" in stderr.read_text()
    monkeypatch.setattr(stage, "run", lambda *_: pytest.fail("compiled again"))
    with pytest.raises(CompileError, match=message):
        compile_source("def f( : ", detect())


@pytest.mark.compiler
def test_linker_of_another_name(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mojo looks for `cc` only; conda's compiler is x86_64-conda-linux-gnu-cc in $CC."""
    linker = Path(find_linker() or "").resolve()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "conda-cc").symlink_to(linker)
    for tool in ("ld", "as", "sh"):
        source = next(p for p in (Path("/usr/bin", tool), Path("/bin", tool)) if p.exists())
        (tmp_path / "bin" / tool).symlink_to(source)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("CC", "conda-cc")
    built = compile_source(SOURCE, detect())
    assert call_add(built) == 42
    assert not (built.path.parent / "bin").exists()


@pytest.mark.parametrize("change", ["source", "target", "optimize", "version"])
def test_the_key_depends_on_what_decides_the_binary(change: str, mojo: Path, cache: Path) -> None:
    first = compile_source(SOURCE, FAKE)
    source, target, optimize = SOURCE, FAKE, "3"
    if change == "source":
        source += "\n"
    elif change == "target":
        target = dataclasses.replace(FAKE, features=("sse", "sse2"))
    elif change == "optimize":
        optimize = "1"
    else:
        mojo.write_text(mojo.read_text().replace("9.9", "9.10"))
        os.utime(mojo, ns=(0, 0))
    assert compile_source(source, target, optimize=optimize).key != first.key


def test_the_key_does_not_depend_on_how_fast_the_machine_is(mojo: Path, cache: Path) -> None:
    first = compile_source(SOURCE, FAKE)
    assert compile_source(SOURCE, dataclasses.replace(FAKE, cores=64, l3_bytes=1)).cached
    assert first.seconds > 0
    assert builds(mojo) == 1


def test_cached_is_what_needs_no_build(mojo: Path, cache: Path) -> None:
    assert not is_cached(SOURCE, FAKE)
    compile_source(SOURCE, FAKE)
    act(mojo, "echo 'kernel.mojo:1:1: error: no' >&2; exit 1")
    with pytest.raises(CompileError):
        compile_source("refused", FAKE)
    assert is_cached(SOURCE, FAKE)
    assert is_cached("refused", FAKE)
    assert not is_cached(SOURCE, FAKE, optimize="0")
    assert builds(mojo) == 2


@pytest.mark.parametrize("damage", ["truncated", "altered", "absent", "record", "record absent"])
def test_a_damaged_binary_is_built_again(damage: str, mojo: Path, cache: Path) -> None:
    library = compile_source(SOURCE, FAKE).path
    record = library.with_name("build.json")
    if damage == "truncated":
        library.write_bytes(library.read_bytes()[:-1])
    elif damage == "altered":
        library.write_bytes(b"LIBRARY")
    elif damage == "absent":
        library.unlink()
    elif damage == "record":
        record.write_text(record.read_text()[:20])
    else:
        record.unlink()
    again = compile_source(SOURCE, FAKE)
    assert (again.path, again.cached) == (library, False)
    assert library.read_text() == "library"
    assert compile_source(SOURCE, FAKE).cached
    assert builds(mojo) == 2
    assert left_in(cache) == []


def test_many_builders_of_one_key(mojo: Path, cache: Path) -> None:
    act(mojo, "sleep 0.1")
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda _: compile_source(SOURCE, FAKE), range(8)))
    assert len({binary.path for binary in built}) == 1
    assert built[0].path.read_text() == "library"
    assert left_in(cache) == []


@pytest.mark.compiler
def test_two_processes_build_one_key(cache: Path) -> None:
    program = (
        "import sys; from tuner.codegen.compile import compile_source; from tuner.target.target import detect;"
        "print(compile_source(sys.argv[1], detect()).path)"
    )
    command = [sys.executable, "-c", program, SOURCE]
    root = str(Path(stage.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (path,) = paths
    assert call_add(Binary(Path(path), "", 0, True)) == 42
    assert left_in(cache) == []


def test_another_build_that_came_first_stays(mojo: Path, cache: Path) -> None:
    """While this process compiles, another one publishes the same key."""
    folder = compile_source(SOURCE, FAKE).path.parent
    theirs = folder.rename(cache / "theirs")
    (theirs / "mark").write_text("theirs")
    act(mojo, f"cp -r {theirs} {folder}")
    assert compile_source(SOURCE, FAKE).path.parent == folder
    assert (folder / "mark").read_text() == "theirs"


def test_what_killed_processes_left_is_swept_whatever_the_clock_says(
    mojo: Path, cache: Path
) -> None:
    """A build that goes on is locked; a clock set forward by hours makes it look old."""
    shelf = compile_source(SOURCE, FAKE).path.parents[1]
    left = shelf / ".build-left"
    left.mkdir()
    with build_folder(shelf) as other:
        os.utime(other, (0, 0))
        with build_folder(shelf):
            pass
        assert (left.exists(), other.exists()) == (False, True)
    assert left_in(cache) == []


def test_the_environment_names_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("MOETUNE_CACHE")
    assert cache_dir().name == "moetune"


@pytest.mark.compiler
@pytest.mark.slow
def test_a_gpu_variant_becomes_ptx(cache: Path) -> None:
    problem = PRESETS["granite-3.0-1b-a400m"].replace(dtype="bfloat16")
    card = named("nvidia-h100")
    text = render(problem, default_variant(problem, card, tokens=16)).text
    binary = compile_source(text, card)
    assert {path.name for path in binary.path.parent.iterdir()} == {
        *("kernel.ptx", "kernel.mojo", "build.json", "stderr.txt")
    }
    program = parse(binary.path.read_text())
    assert list(program.kernels) == [
        *("moe_logits", "moe_choose", "moe_product_1", "moe_product_2", "moe_combine")
    ]
    assert program.facts["tile_n"] == 16
    assert "wgmma.mma_async" in program.kernels["moe_product_1"].ptx
    assert compile_source(text, card).cached


def test_a_gpu_program_s_print_is_kept(mojo: Path, cache: Path) -> None:
    """The stand-in writes a program at its -o, as the compiler does for a GPU."""
    act(mojo, 'printf "#!/bin/sh\\necho PTX\\n" > "$out"; chmod +x "$out"')
    binary = compile_source(SOURCE, named("nvidia-h100"))
    assert binary.path.name == "kernel.ptx"
    assert binary.path.read_text() == "PTX\n"
    assert compile_source(SOURCE, named("nvidia-h100")).cached
    act(mojo, 'printf "#!/bin/sh\\nexit 3\\n" > "$out"; chmod +x "$out"')
    with pytest.raises(CompilerFailed, match="ended with 3"):
        compile_source(SOURCE + "# other", named("nvidia-h100"))
