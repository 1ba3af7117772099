"""Mojo source to a kernel's binary, in another process, kept in a content-addressed cache.

For a CPU that is a shared library, ``kernel.so``. A GPU's source is a program that prints PTX: it is
built and run here, and ``kernel.ptx`` is what it printed. No source is compiled twice, see
``tuner.codegen.cache``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner.codegen.cache import (
    Binary,
    SourceRefused,
    look_up,
    place,
    publish,
    refusal_in,
    sha256,
    write,
    writing,
)
from tuner.errors import CompileError
from tuner.host.paths import cache_dir, no_programs
from tuner.host.process import Completed, run
from tuner.host.staging import build_folder
from tuner.host.toolchain import NO_LINKER, require_linker, require_mojo, toolchain_version
from tuner.target import Target, compile_flags

__all__ = [
    "Binary",
    "CompileTimeout",
    "CompilerFailed",
    "CompilerKilled",
    "SourceRefused",
    "binary_key",
    "compile_source",
    "is_cached",
]

_ERROR = re.compile(r"\berror:|\bERROR:|memory|bad_alloc", re.IGNORECASE)
_ATTEMPTS = 3  # another process may just be replacing the same damaged folder
# The compiler's own ends, among them those of one that gets no memory. Others (KILL, TERM, BUS on a full
# disk) come from outside.
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGILL)


class CompilerFailed(CompileError):
    """A build failed, and nothing was said of the source: the linker, memory, the disk, or a crash."""


class CompileTimeout(CompilerFailed):
    """The compiler did not finish within its time limit."""


class CompilerKilled(CompilerFailed):
    """A signal from outside ended the compiler."""


def compile_source(
    text: str,
    target: Target,
    *,
    optimize: str = "3",
    timeout_s: float = 120.0,
    cache: Path | None = None,
) -> Binary:
    """The binary of a Mojo source for ``target``, from the cache where it is there.

    Raises SourceRefused with what the compiler says of the source, CompileTimeout after ``timeout_s`` seconds,
    CompilerKilled and CompilerFailed where a build ends otherwise, and CompileError where the toolchain is
    missing or the cache folder is full or not writable. Refusals are remembered; the other errors are not, as
    the same source may pass later.
    """
    cache = cache or cache_dir()
    flags = all_flags(target, optimize)
    folder = place(cache, binary_key(text, flags))
    for attempt in range(_ATTEMPTS):
        found = look_up(folder, cached=attempt == 0)
        if found is not None:
            return found
        with writing(cache), build_folder(folder.parent) as draft:
            _build(draft, text, flags, timeout_s, target.kind)
            publish(draft, folder)
    raise CompileError(f"{folder}: damaged again and again; check the disk, then delete the folder")


def is_cached(text: str, target: Target, *, optimize: str = "3", cache: Path | None = None) -> bool:
    """Whether ``compile_source`` would answer at once: built before, or refused before.

    Raises CompileError where the toolchain is missing: its version is part of the key.
    """
    try:
        key = binary_key(text, all_flags(target, optimize))
        return look_up(place(cache or cache_dir(), key)) is not None
    except SourceRefused:
        return True


def all_flags(target: Target, optimize: str = "3") -> tuple[str, ...]:
    """The compiler's flags, all of which are part of a binary's key."""
    return (*compile_flags(target), f"-O{optimize}")


def binary_key(text: str, flags: Sequence[str]) -> str:
    """The cache key: what was compiled, by which compiler, for what."""
    source = hashlib.sha256(text.encode()).hexdigest()
    parts = [source, toolchain_version(), *flags]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _build(draft: Path, text: str, flags: Sequence[str], timeout_s: float, kind: str) -> None:
    """Compile in ``draft`` and write build.json there, be it a binary or a refusal of the source."""
    source = draft / "kernel.mojo"
    library = draft / ("kernel.ptx" if kind == "gpu" else "kernel.so")
    source.write_text(text)
    built = draft / "program" if kind == "gpu" else library
    done = run_mojo(source, built, "exe" if kind == "gpu" else "shared-lib", flags, timeout_s)
    if kind == "gpu" and done.returncode == 0 and not done.timed_out:
        done = _print(built, library, done, timeout_s)
    facts: dict[str, Any] = {"toolchain": toolchain_version(), "flags": list(flags)}
    if done.returncode == 0 and not done.timed_out and library.exists():
        facts |= {"status": "ok", "sha256": sha256(library), "seconds": round(done.seconds, 3)}
        facts |= {"file": library.name}
    else:
        facts |= {"status": "failed", "message": _refusal(done, timeout_s)}
    write(draft, facts, done.stderr)


def run_mojo(
    source: Path, built: Path, emit: str, flags: Sequence[str], timeout_s: float
) -> Completed:
    """``mojo build`` of a source, beside which all its files stay; messages don't name the folder.

    Raises CompileError where there is no mojo or no linker.
    """
    draft = source.parent
    # One thread a build: several builds run side by side, and a single one gains nothing from more
    # (measured on two cores: two at once 6.5 s instead of 8.3 s).
    command: list[str | Path] = [
        require_mojo(),
        "build",
        "--emit",
        emit,
        "--num-threads",
        "1",
        "-o",
        built,
        *flags,
        source,
    ]
    with _linker_variables(draft) as variables:
        done = run(command, timeout_s, env=variables)
    # The folder's name is random: without it the message is the same every time.
    return dataclasses.replace(done, stderr=done.stderr.replace(f"{draft}{os.sep}", ""))


def _print(program: Path, ptx: Path, built: Completed, timeout_s: float) -> Completed:
    """Run a GPU's program and keep what it prints; the times of build and run together."""
    try:
        done = run([program], timeout_s)
    except PermissionError as error:
        raise CompileError(no_programs(program) or f"{program}: cannot be run ({error})") from error
    if done.returncode == 0 and not done.timed_out:
        ptx.write_text(done.stdout)
    program.unlink()
    return dataclasses.replace(done, seconds=built.seconds + done.seconds)


def _refusal(done: Completed, timeout_s: float) -> str:
    """The message to remember for a source; raises where the source is not to blame."""
    if done.timed_out:
        raise CompileTimeout(f"mojo build: timed out after {timeout_s:g} s; raise the time limit")
    stderr = done.stderr
    if "No space left on device" in stderr or "Disk quota exceeded" in stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "unable to find suitable c compiler" in stderr:
        raise CompileError(NO_LINKER)
    if done.returncode < 0 and done.returncode not in _CRASHES:
        name = signal.Signals(-done.returncode).name
        raise CompilerKilled(
            f"mojo build: ended by {name} from outside; free memory and disk space, then try again"
        )
    if refusal := refusal_in(stderr):
        return refusal
    lines = [line.strip() for line in stderr.splitlines()]
    said = next((line for line in lines if _ERROR.search(line)), "without an error line")
    raise CompilerFailed(
        f"mojo build: ended with {done.returncode}, {said}; nothing is wrong with the source: "
        "see `moetune doctor` and the room on the machine, then try again"
    )


@contextlib.contextmanager
def _linker_variables(draft: Path) -> Iterator[dict[str, str]]:
    """Temporary files stay in ``draft``; mojo links with ``cc``, whatever the linker's name."""
    linker = require_linker()
    variables = {"TMPDIR": str(draft)}
    if linker.name == "cc":
        yield variables
        return
    if why := no_programs(draft):
        raise CompileError(why)
    shim = draft / "bin" / "cc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{linker}" "$@"\n')
    shim.chmod(0o755)
    yield variables | {"PATH": f"{shim.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    shutil.rmtree(shim.parent, ignore_errors=True)
