"""The toolchain: which Mojo compiler and which C linker this Python finds, and the compiler's version."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path

from tuner.errors import CompileError
from tuner.host.process import run

NO_LINKER = "no C linker: none of $CC, cc, gcc, clang is there; apt-get install gcc"
_VERSION_S = 60.0


def find_mojo() -> Path | None:
    """The ``mojo`` of the running Python's environment, else the first on PATH."""
    beside = Path(sys.executable).with_name("mojo")
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("mojo")
    return Path(found) if found else None


def find_linker() -> Path | None:
    """The C compiler that links: ``$CC``, else cc, gcc or clang on PATH."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return Path(found)
    return None


def require_linker() -> Path:
    """The C compiler that links. Raises CompileError where there is none."""
    found = find_linker()
    if found is None:
        raise CompileError(NO_LINKER)
    return found


def toolchain_version() -> str:
    """What ``mojo --version`` says. Raises CompileError where there is no mojo."""
    mojo = require_mojo()
    return _version(mojo, mojo.stat().st_mtime_ns)


@functools.cache
def _version(mojo: Path, _mtime_ns: int) -> str:
    """Asked once per process and executable; an upgrade in between changes its time."""
    try:
        done = run([mojo, "--version"], timeout_s=_VERSION_S)
    except OSError as error:
        raise CompileError(
            f"{mojo}: cannot be run ({error.strerror}); mend its permissions, or install mojo again"
        ) from error
    if done.returncode != 0:
        said = done.stderr.strip() or "no answer"
        raise CompileError(f"{mojo} --version: {said}; pip install --force-reinstall mojo")
    return done.stdout.strip()


def require_mojo() -> Path:
    """The compiler. Raises CompileError where there is none."""
    found = find_mojo()
    if found is None:
        message = "mojo: not found beside this Python nor on PATH; pip install moetune installs it"
        raise CompileError(message)
    return found
