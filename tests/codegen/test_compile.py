from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuner.codegen import compile as stage
from tuner.codegen.compile import (
    Binary,
    CompilerFailed,
    CompileTimeout,
    SourceRefused,
    compile_source,
    is_cached,
)
from tuner.codegen.render import render
from tuner.cpu.worker_pool import load_library
from tuner.errors import CompileError, KernelError
from tuner.gpu.ptx import parse
from tuner.host.paths import cache_dir
from tuner.host.staging import build_folder
from tuner.host.toolchain import find_linker, toolchain_version
from tuner.problem import PRESETS
from tuner.space.variant import default_variant
from tuner.target import Target, detect, named

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


def test_time_limit(mojo: Path, cache: Path) -> None:
    act(mojo, "sleep 60")
    with pytest.raises(CompileTimeout, match=r"timed out after 0\.2 s; raise the time limit"):
        compile_source(SOURCE, FAKE, timeout_s=0.2)
    assert left_in(cache) == []
    act(mojo, "")
    assert not compile_source(SOURCE, FAKE).cached


def test_no_mojo(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.host.toolchain.find_mojo", lambda: None)
    monkeypatch.setattr("tuner.target.target.find_mojo", lambda: None)
    with pytest.raises(CompileError, match=r"^mojo: not found .*; pip install moetune"):
        compile_source(SOURCE, FAKE)


def test_a_mojo_that_does_not_start(mojo: Path, cache: Path) -> None:
    mojo.write_text("#!/bin/sh\necho 'lib.so: not there' >&2; exit 127\n")
    os.utime(mojo, ns=(1, 1))
    with pytest.raises(CompileError, match=r"mojo --version: lib\.so: not there; pip install"):
        compile_source(SOURCE, FAKE)


def test_no_linker(mojo: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("tuner.host.toolchain.find_linker", lambda: None)
        with pytest.raises(CompileError, match=r"^no C linker: .*; apt-get install gcc$"):
            compile_source(SOURCE, FAKE)
    assert builds(mojo) == 0
    assert not compile_source(SOURCE, FAKE).cached


def test_a_linker_that_mojo_does_not_find(mojo: Path, cache: Path) -> None:
    act(mojo, "echo 'mojo: error: unable to find suitable c compiler for linking' >&2; exit 1")
    with pytest.raises(CompileError, match="no C linker"):
        compile_source(SOURCE, FAKE)
    act(mojo, "")
    assert not compile_source(SOURCE, FAKE).cached


def test_a_build_that_was_killed_is_no_refusal(mojo: Path, cache: Path) -> None:
    act(mojo, "kill -9 $$")
    with pytest.raises(CompileError, match="ended by SIGKILL from outside; free memory"):
        compile_source(SOURCE, FAKE)
    act(mojo, "")
    assert not compile_source(SOURCE, FAKE).cached


# How a build may end -> what is said of it. None of these says anything of the source.
PASSING = {
    "kill -SEGV $$": "ended with -11, without an error line",
    "kill -ABRT $$": "ended with -6, without an error line",
    'rm "$out"': "ended with 0, without an error line",
    "exit 7": "ended with 7, without an error line",
    "echo 'collect2: fatal error: cannot find ld' >&2; echo 'mojo: error: failed to link' >&2; exit 1": (
        "ended with 1, collect2: fatal error: cannot find ld"
    ),
    "echo 'LLVM ERROR: out of memory' >&2; kill -ABRT $$": "ended with -6, LLVM ERROR: out of memory",
    "echo 'kernel.mojo:1:1: warning: odd' >&2; echo 'mojo: error: lost' >&2; exit 1": (
        "ended with 1, mojo: error: lost"
    ),
}


@pytest.mark.parametrize("end", PASSING)
def test_only_what_is_said_of_the_source_is_remembered(end: str, mojo: Path, cache: Path) -> None:
    act(mojo, end)
    for _ in range(2):
        with pytest.raises(
            CompilerFailed, match=f"^mojo build: {re.escape(PASSING[end])}; nothing"
        ):
            compile_source(SOURCE, FAKE)
    assert builds(mojo) == 2
    act(mojo, "")
    assert not compile_source(SOURCE, FAKE).cached
    assert left_in(cache) == []


@pytest.mark.parametrize("said", ["kernel.mojo:62:8: error: no", "<unknown>:0: error: no register"])
def test_a_refusal_stands_among_other_lines(said: str, mojo: Path, cache: Path) -> None:
    act(
        mojo,
        f"printf '%s\\n' 'kernel.mojo:1:1: warning: odd' '{said}' 'mojo: error: x' >&2; exit 1",
    )
    for _ in range(2):
        with pytest.raises(SourceRefused, match=f"^{re.escape(said)}$"):
            compile_source(SOURCE, FAKE)
    assert builds(mojo) == 1


def test_what_an_earlier_version_remembered_wrongly_is_forgotten(mojo: Path, cache: Path) -> None:
    record = compile_source(SOURCE, FAKE).path.with_name("build.json")
    record.write_text('{"status": "failed", "message": "collect2: fatal error: cannot find ld"}')
    assert not is_cached(SOURCE, FAKE)
    assert compile_source(SOURCE, FAKE).path.read_text() == "library"
    assert builds(mojo) == 2


def test_a_cache_from_which_nothing_can_be_run(
    cache: Path, mojo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mount with noexec, by its flag."""
    act(mojo, 'printf "#!/bin/sh\\necho PTX\\n" > "$out"')  # not to be run
    told = r"kernel.* is mounted noexec, from which no kernel can be run; name .* in MOETUNE_CACHE$"
    flags = os.ST_NOEXEC
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=flags))
    with pytest.raises(CompileError, match=r"mounted noexec, .* in MOETUNE_CACHE$"):
        compile_source(SOURCE, named("nvidia-h100"))
    library = compile_source(SOURCE, FAKE).path
    with pytest.raises(KernelError, match=told):
        load_library(library, {})
    flags = 0
    with pytest.raises(KernelError, match=r"does not load: .*; clear the cache folder$"):
        load_library(library, {})


FULL = r"^cache folder \S+ is full; .* free some space, or name another one in MOETUNE_CACHE$"


def compile_elsewhere(program: str, *, shell: str = 'exec "$@"') -> str:
    """Output of a Python program in a process of its own, started by a line of shell."""
    text = f"from tests.codegen.test_compile import *\n{program}\ntry: compile_source(SOURCE, target)\n"
    text += "except CompileError as error: print(error)\n"
    root = str(Path(stage.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["sh", "-c", shell, "sh", sys.executable, "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return done.stdout.strip()


@pytest.mark.compiler
def test_a_full_cache_folder(cache: Path) -> None:
    """A file system of 16 KiB, of that process alone: room for the source, not for the library."""
    cache.mkdir()
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this system does not let a process have mounts of its own")
    mount = f"mount -t tmpfs -o size=16k tmpfs {cache}"
    count = f"find {cache} -mindepth 2 -type f | wc -l"
    said = compile_elsewhere(
        "target = detect()", shell=f'unshare -rm sh -ec \'{mount}; "$@"; {count}\' sh "$@"'
    )
    message, files = said.splitlines()
    assert re.match(FULL, message)
    assert str(cache) in message
    assert files == "0"


def test_a_full_cache_folder_by_file_limit(mojo: Path, cache: Path) -> None:
    said = compile_elsewhere(
        "import resource, tuner.target.target, tuner.host.toolchain\n"
        f"tuner.host.toolchain.find_mojo = lambda: Path({str(mojo)!r})\n"
        "tuner.target.target.find_mojo = lambda: None\ntarget = FAKE\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))"
    )
    assert re.match(FULL, said)
    assert left_in(cache) == []


def test_a_linker_that_finds_the_disk_full(mojo: Path, cache: Path) -> None:
    act(mojo, "echo 'ld: final link failed: No space left on device' >&2; exit 1")
    with pytest.raises(CompileError, match=FULL):
        compile_source(SOURCE, FAKE)
    act(mojo, "")
    assert not compile_source(SOURCE, FAKE).cached


def test_a_cache_that_is_no_folder(mojo: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"cache folder \S+file cannot be written \(Not a directory\); mend its permissions"
    with pytest.raises(CompileError, match=message):
        compile_source(SOURCE, FAKE, cache=tmp_path / "file")


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
