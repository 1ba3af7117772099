"""Doctor: what this machine is, and whether each thing that moetune needs works here.

A check returns what it found or raises; one place turns both into a Finding.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tuner.codegen import probes
from tuner.codegen.compile import compile_source
from tuner.errors import CompileError, DatabaseError, KernelError, MoetuneError
from tuner.host.paths import cache_dir, no_programs
from tuner.host.process import run
from tuner.host.system import is_linux, require_linux
from tuner.host.toolchain import find_linker, find_mojo, require_linker, toolchain_version
from tuner.measure.probe import Limit, Probe
from tuner.space import space, templates
from tuner.store import shipped
from tuner.store.database import Database
from tuner.target import Target, detect, level

# Features that decide how fast a kernel can be, in the compiler's names.
_FAST = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "avx512fp16",
    "amx-tile", "neon", "dotprod", "bf16", "i8mm", "sve",
)  # fmt: skip
# One binary is some 200 KiB; a search of an hour makes a thousand of them.
_LEAST_FREE_BYTES = 256 << 20
_PYTHONS = ((3, 11), (3, 14))
_BUILD_S = 120.0
_CALL_S = 30.0

_SOURCE = """\
@export
def add(a: Int64, b: Int64) abi("C") -> Int64:
    return a + b
"""
# In a process of its own: code that this machine cannot run ends the process that calls it.
_CALL = """\
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
library.add.argtypes = [ctypes.c_int64, ctypes.c_int64]
library.add.restype = ctypes.c_int64
print(library.add(40, 2))
"""


@dataclass(frozen=True)
class CheckResult:
    """The result of a check: ``ok``, ``problem``, or ``warning`` where work can go on."""

    name: str
    status: str
    text: str


@dataclass(frozen=True)
class _Check:
    name: str
    look: Callable[[Path], str]
    essential: bool = True
    anywhere: bool = False


def diagnose(database: Path) -> list[CheckResult]:
    """Run every check, with the database at this path; elsewhere than on Linux the first ones."""
    checks = _CHECKS if is_linux() else [check for check in _CHECKS if check.anywhere]
    return [_find(check, database) for check in checks]


def _find(check: _Check, database: Path) -> CheckResult:
    try:
        return CheckResult(check.name, "ok", check.look(database))
    except (MoetuneError, OSError) as error:
        status = "problem" if check.essential else "warning"
        return CheckResult(check.name, status, " ".join(str(error).splitlines()))


def require_toolchain() -> None:
    """Raise CompileError where nothing can be compiled: no mojo, or no linker; TargetError off Linux."""
    require_linux()
    toolchain_version()
    _linker()


def measure_ceilings(target: Target, database: Database) -> list[Limit]:
    """Measure this machine's ceilings and what lies behind them, store them: name, value and unit of each."""
    probe = Probe(target, probes.of_cpu(target))
    limits = [*probe.ceilings().rows(), *probe.details()]
    target_id = database.add_target(target)
    with database.transaction():
        for limit in limits:
            database.set_ceiling(target_id, *limit)
    return limits


def _machine(_: Path) -> str:
    target = detect()
    fast = [name for name in _FAST if name in target.features]
    return f"{target.describe()}; {level(target)}: {' '.join(fast) or 'no wide vectors'}"


def _python(_: Path) -> str:
    low, high = _PYTHONS
    if not low <= sys.version_info[:2] < high:
        allowed = f"{low[0]}.{low[1]} to {high[0]}.{high[1] - 1}"
        raise CompileError(f"Python {platform.python_version()}: must be {allowed}; use one")
    return f"{platform.python_version()} ({sys.executable})"


def _mojo(_: Path) -> str:
    return f"{toolchain_version()} ({find_mojo()})"


def _linker(_: Path | None = None) -> str:
    return str(require_linker())


def _build(_: Path) -> str:
    """Compile afresh, in the cache's file system, and call the result."""
    if find_mojo() is None or find_linker() is None:
        raise CompileError("not tried: it needs mojo and the linker; see above")
    cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=cache_dir()) as folder:
        built = compile_source(_SOURCE, detect(), timeout_s=_BUILD_S, cache=Path(folder))
        called = run([sys.executable, "-c", _CALL, built.path], _CALL_S)
    if called.stdout.strip() != "42":
        why = called.stderr.strip().rpartition("\n")[2] or f"status {called.returncode}"
        raise KernelError(f"a compiled library does not run here ({why}); name an older --target")
    return f"compiled, loaded and called a library in {built.seconds:.1f} s"


def _cache(_: Path) -> str:
    folder = cache_dir()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise CompileError(
            f"{there}: cannot be written; mend its permissions, or name another cache folder in "
            "MOETUNE_CACHE"
        )
    if why := no_programs(there):
        raise CompileError(why)
    free = shutil.disk_usage(there).free
    if free < _LEAST_FREE_BYTES:
        raise CompileError(
            f"{folder}: only {free >> 20} MiB free; make room, or name another cache folder in "
            "MOETUNE_CACHE"
        )
    return f"{folder}: {free / 2**30:.1f} GiB free"


def _database(path: Path) -> str:
    if not path.exists():
        return f"{path}: not there yet; `moetune tune` or `moetune import` makes it"
    with Database(path, read_only=True) as database:
        winners = database.best()
    machine = detect().digest
    here = sum(row["target_id"] == machine for row in winners)
    return f"{path}: {len(winners)} winners, {here} of this machine"


def _writable(path: Path) -> str:
    """A database that can only be read serves layers, but no tuning."""
    there = next(place for place in (path, *path.parents) if place.exists())
    if not os.access(there, os.W_OK):
        raise DatabaseError(
            f"{there}: is read-only, so that tuning cannot record; make it writable, or name "
            "another database with --db or MOETUNE_DB"
        )
    return "tuning can record"


def _templates(_: Path) -> str:
    for name in templates.names():
        space.load(name)
    return f"{templates.folder()}: {', '.join(templates.names()) or 'none'}"


def _shipped(_: Path) -> str:
    path = shipped.path()
    left_out = "" if shipped.are_used() else f", left out: {shipped.VARIABLE} is 0"
    return f"{path}: {len(path.read_text().splitlines())} winners{left_out}"


def _torch(_: Path) -> str:
    try:
        return f"torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        message = "torch: not installed, needed by `moetune bench --against torch` alone; "
        raise KernelError(message + "pip install 'moetune[compare]'") from None


# In the order of dependence: the first problem is the one to mend first.
_CHECKS = (
    _Check("machine", _machine, anywhere=True),
    _Check("python", _python, anywhere=True),
    _Check("mojo", _mojo),
    _Check("linker", _linker),
    _Check("cache", _cache),
    _Check("build", _build),
    _Check("templates", _templates),
    _Check("shipped", _shipped, essential=False, anywhere=True),
    _Check("database", _database),
    _Check("recording", _writable, essential=False),
    _Check("torch", _torch, essential=False),
)
