"""Mojo source to shared library, in another process, kept in a content-addressed cache.

A folder ``CACHE/KEY[:2]/KEY`` holds ``kernel.so``, ``kernel.mojo``, ``stderr.txt`` and
``build.json``. It appears whole or not at all, and what a source was refused for is
remembered as well as what it became, so that no source is compiled twice.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.drafts import build_folder
from tuner.errors import CompileError
from tuner.paths import cache_dir
from tuner.process import Completed, find_linker, find_mojo, run
from tuner.target import Target, compile_flags

__all__ = [
    "Binary",
    "CompileTimeout",
    "CompilerKilled",
    "SourceRefused",
    "binary_key",
    "cache_dir",
    "compile_source",
    "is_cached",
    "require_linker",
    "toolchain_version",
]

_VERSION_S = 60.0
_ATTEMPTS = 3  # another process may just be replacing the same damaged folder
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The compiler's own ends, which repeat with the same source. Others (KILL, TERM, BUS on a
# full disk) come from outside and are not remembered.
_CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGILL)


class CompileTimeout(CompileError):
    """The compiler did not finish within its time limit."""


class CompilerKilled(CompileError):
    """A signal from outside ended the compiler: that says nothing about the source."""


class SourceRefused(CompileError):
    """The compiler refused a source, and would again."""


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: its shared library, cache key and how long the build took (s).

    ``cached`` says that this call did not build it; ``seconds`` are the first build's then.
    """

    path: Path
    key: str
    seconds: float
    cached: bool


def compile_source(
    text: str,
    target: Target,
    *,
    optimize: str = "3",
    timeout_s: float = 120.0,
    cache: Path | None = None,
) -> Binary:
    """The shared library of a Mojo source for ``target``, from the cache where it is there.

    Raises CompileTimeout after ``timeout_s`` seconds, CompilerKilled, and CompileError where the toolchain is
    missing, the cache folder is full or not writable, or the source is refused (first error
    line). Refusals are remembered; the other errors are not, as the same source may pass later.
    """
    flags = (*compile_flags(target), f"-O{optimize}")
    key = binary_key(text, flags)
    folder = (cache or cache_dir()) / key[:2] / key
    for attempt in range(_ATTEMPTS):
        found = _look_up(folder, cached=attempt == 0)
        if found is not None:
            return found
        with _writing(folder), build_folder(folder.parent) as draft:
            _build(draft, text, flags, timeout_s)
            _publish(draft, folder)
    raise CompileError(f"{folder}: damaged again and again; check the disk, then delete the folder")


def is_cached(text: str, target: Target, *, optimize: str = "3", cache: Path | None = None) -> bool:
    """Whether ``compile_source`` would answer at once: built before, or refused before.

    Raises CompileError where the toolchain is missing: its version is part of the key.
    """
    try:
        key = binary_key(text, (*compile_flags(target), f"-O{optimize}"))
        return _look_up((cache or cache_dir()) / key[:2] / key) is not None
    except SourceRefused:
        return True


def binary_key(text: str, flags: Sequence[str]) -> str:
    """The cache key: what was compiled, by which compiler, for what."""
    source = hashlib.sha256(text.encode()).hexdigest()
    parts = [source, toolchain_version(), *flags]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def require_linker() -> Path:
    """The C compiler that links. Raises CompileError where there is none."""
    found = find_linker()
    if found is None:
        raise CompileError(_NO_LINKER)
    return found


def toolchain_version() -> str:
    """What ``mojo --version`` says. Raises CompileError where there is no mojo."""
    mojo = _mojo()
    return _version(mojo, mojo.stat().st_mtime_ns)


@functools.cache
def _version(mojo: Path, _mtime_ns: int) -> str:
    """Asked once per process and executable; an upgrade in between changes its time."""
    done = run([mojo, "--version"], timeout_s=_VERSION_S)
    if done.returncode != 0:
        said = done.stderr.strip() or "no answer"
        raise CompileError(f"{mojo} --version: {said}; pip install --force-reinstall mojo")
    return done.stdout.strip()


def _mojo() -> Path:
    found = find_mojo()
    if found is None:
        message = "mojo: not found beside this Python nor on PATH; pip install moetune installs it"
        raise CompileError(message)
    return found


def _look_up(folder: Path, *, cached: bool = True) -> Binary | None:
    """The binary in ``folder``; None where it is absent or not what was once written there."""
    try:
        facts = json.loads((folder / "build.json").read_text())
        if facts["status"] == "failed":
            raise SourceRefused(facts["message"])
        library = folder / "kernel.so"
        if _sha256(library) != facts["sha256"]:
            return None
        return Binary(library, folder.name, float(facts["seconds"]), cached)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(draft: Path, text: str, flags: Sequence[str], timeout_s: float) -> None:
    """Compile in ``draft`` and write build.json there, be it a binary or a refusal."""
    source, library = draft / "kernel.mojo", draft / "kernel.so"
    source.write_text(text)
    command: list[str | Path] = [
        _mojo(),
        "build",
        "--emit",
        "shared-lib",
        # One thread a build: several builds run side by side, and a single one gains nothing from more
        # (measured on two cores: two at once 6.5 s instead of 8.3 s).
        "--num-threads",
        "1",
        "-o",
        library,
        *flags,
        source,
    ]
    done = run(command, timeout_s, env=_environment(draft))
    # The folder's name is random: without it the message is the same every time.
    stderr = done.stderr.replace(f"{draft}{os.sep}", "")
    (draft / "stderr.txt").write_text(stderr)
    facts: dict[str, Any] = {"toolchain": toolchain_version(), "flags": list(flags)}
    if done.returncode == 0 and not done.timed_out and library.exists():
        facts |= {"status": "ok", "sha256": _sha256(library), "seconds": round(done.seconds, 3)}
    else:
        facts |= {"status": "failed", "message": _refusal(done, stderr, timeout_s)}
    (draft / "build.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def _refusal(done: Completed, stderr: str, timeout_s: float) -> str:
    """The message to remember for a source; raises where the source is not to blame."""
    if done.timed_out:
        raise CompileTimeout(f"mojo build: timed out after {timeout_s:g} s; raise the time limit")
    if "No space left on device" in stderr or "Disk quota exceeded" in stderr:
        raise OSError(errno.ENOSPC, "No space left on device")
    if "unable to find suitable c compiler" in stderr:
        raise CompileError(_NO_LINKER)
    if done.returncode < 0 and done.returncode not in _CRASHES:
        name = signal.Signals(-done.returncode).name
        raise CompilerKilled(
            f"mojo build: ended by {name} from outside; free memory and disk space, then try again"
        )
    lines = [line.strip() for line in stderr.splitlines()]
    errors = [line for line in lines if "error:" in line]
    return (errors or [f"mojo build: ended with {done.returncode}, without an error line"])[0]


_NO_LINKER = "no C linker: none of $CC, cc, gcc, clang is there; apt-get install gcc"


def _environment(draft: Path) -> dict[str, str]:
    """Temporary files stay in ``draft``; mojo links with ``cc``, whatever the linker's name."""
    linker = require_linker()
    variables = {"TMPDIR": str(draft)}
    if linker.name != "cc":
        shim = draft / "bin" / "cc"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec "{linker}" "$@"\n')
        shim.chmod(0o755)
        variables["PATH"] = f"{shim.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return variables


def _publish(draft: Path, folder: Path) -> None:
    """Move a finished build into place; a sound one that another process put there stays."""
    shutil.rmtree(draft / "bin", ignore_errors=True)
    if folder.exists() and not _is_sound(folder):
        with contextlib.suppress(FileNotFoundError):  # another process moves it, too
            folder.rename(draft.with_name(f"{draft.name}-damaged"))
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _is_sound(folder: Path) -> bool:
    try:
        return _look_up(folder) is not None
    except CompileError:  # a remembered refusal
        return True


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into CompileErrors that name the cache folder."""
    cache = folder.parent.parent
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_SPACE
        why = "is full" if full else f"cannot be written ({error.strerror})"
        mend = "delete it or free some space" if full else "mend its permissions"
        message = f"cache folder {cache} {why}; {mend}, or name another one in MOETUNE_CACHE"
        raise CompileError(message) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
