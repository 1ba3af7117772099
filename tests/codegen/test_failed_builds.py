"""Builds that fail: what is said, what is remembered, and what is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.codegen.builds import FAKE, SOURCE, act, builds, left_in, mojo
from tuner.codegen import compile as stage
from tuner.codegen.compile import (
    CompilerFailed,
    CompileTimeout,
    SourceRefused,
    compile_source,
    is_cached,
)
from tuner.cpu.worker_pool import load_library
from tuner.errors import CompileError, KernelError
from tuner.target import named

__all__ = ["mojo"]


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
    names = "from pathlib import Path\nfrom tests.codegen.builds import FAKE, SOURCE\n"
    names += "from tuner.codegen.compile import compile_source\n"
    names += "from tuner.errors import CompileError\nfrom tuner.target import detect\n"
    text = f"{names}{program}\ntry: compile_source(SOURCE, target)\n"
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
