"""The frozen key of the hardware that a kernel is compiled for and measured on."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import TargetError
from tuner.host import caches, json_text
from tuner.host.arguments import require
from tuner.host.cores import usable
from tuner.host.files import write_whole
from tuner.host.paths import cache_dir
from tuner.host.process import run
from tuner.host.system import require_linux
from tuner.host.toolchain import find_mojo
from tuner.target import cpu_models, gpus
from tuner.target import features as feature_table

KINDS = ("cpu", "gpu")  # of targets
_CPUINFO = Path("/proc/cpuinfo")
_ASK_S = 60.0
_VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel", "0x41": "arm", "0xc0": "ampere"}


@dataclass(frozen=True)
class Target:
    """One machine as far as it decides which code runs (arch, features) and how fast (the rest).

    ``arch`` and ``features`` are named as the compiler names them; ``cores`` are those this
    process may use and its quota of processor time keeps busy; cache sizes are bytes, 0 where the
    system does not tell. ``name`` is the processor's label and no part of the key. Of a GPU
    (``kind`` is gpu), ``accelerator`` names the card and with it its memory, ``cores`` are
    multiprocessors and ``l1d_bytes`` the shared memory of one.
    """

    vendor: str
    arch: str
    features: tuple[str, ...]
    cores: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    kind: str = "cpu"
    name: str = dataclasses.field(default="", compare=False)
    accelerator: str = ""

    def __repr__(self) -> str:
        return f"<Target {self.describe()}>"

    @property
    def label(self) -> str:
        """What it is called where targets are told apart: the architecture of a CPU, the card of a GPU."""
        return self.accelerator or self.arch

    @property
    def key(self) -> dict[str, Any]:
        """Every compared field, JSON-able, sorted by name."""
        fields = sorted(f.name for f in dataclasses.fields(self) if f.compare)
        values = {name: getattr(self, name) for name in fields}
        return values | {"features": list(self.features)}

    @functools.cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of the key."""
        text = json.dumps(self.key, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_key(cls, key: Mapping[str, Any]) -> Target:
        """The inverse of ``key`` (a ``name`` is taken too). Raises TargetError on other fields."""
        require("key", key, Mapping)
        try:
            return cls(**{**key, "features": tuple(key["features"])})
        except (KeyError, TypeError) as error:
            message = f"target key {dict(key)}: {error}; give the fields of Target"
            raise TargetError(message) from error

    def describe(self) -> str:
        """One line for people."""
        caches = ", ".join(
            f"{label} {_size(size)}"
            for label, size in (
                ("L1d", self.l1d_bytes),
                ("L2", self.l2_bytes),
                ("L3", self.l3_bytes),
            )
            if size
        )
        label = f" ({self.name})" if self.name else ""
        if self.kind == "gpu":
            return f"{self.accelerator}{label}: {self.arch}, {self.cores} multiprocessors, {caches}"
        return f"{self.arch}{label}: {self.cores} cores, SIMD {simd_bytes(self) * 8} bit, {caches}"


def detect() -> Target:
    """This machine. The compiler names the architecture; without it, the numbers in /proc/cpuinfo do.

    Raises TargetError on another system than Linux.
    """
    require_linux()
    info = _cpuinfo()
    arch, names = _host_arch(info)
    level_sizes = caches.sizes()
    return Target(
        vendor=_VENDORS.get(_vendor_id(info), _vendor_id(info).lower() or "unknown"),
        arch=arch,
        features=names,
        cores=usable(),
        l1d_bytes=level_sizes.get(1, 0),
        l2_bytes=level_sizes.get(2, 0),
        l3_bytes=level_sizes.get(3, 0),
        name=info.get("model name", ""),
    )


def named(arch: str) -> Target:
    """This machine running code for ``arch``: ``host``, or a name that the compiler knows; or a GPU.

    Cores and caches stay this machine's, because here is where it will be measured; those of a GPU
    are its card's. Raises TargetError for a name that is not known, with the closest ones.
    """
    if arch == "host":
        return detect()
    if arch in gpus.CARDS:
        return of_card(gpus.CARDS[arch])
    arch = "x86-64" if arch == "x86-64-v1" else arch
    known = supported()
    if arch not in known:
        names = (*known, *gpus.CARDS)
        close = ", ".join(difflib.get_close_matches(arch, names, n=4, cutoff=0.5))
        closest = f"did you mean {close}?" if close else "`moetune doctor` names this machine's;"
        raise TargetError(f"target {arch!r}: not known; {closest} or use 'host'")
    return dataclasses.replace(detect(), arch=arch, features=_features_of(arch))


def of_card(card: gpus.Card) -> Target:
    """The Target of a GPU."""
    return Target(
        vendor="nvidia",
        arch=card.arch,
        features=(),
        cores=card.multiprocessors,
        l1d_bytes=card.shared_bytes,
        l2_bytes=card.l2_bytes,
        l3_bytes=0,
        kind="gpu",
        name=card.label,
        accelerator=card.name,
    )


def supported() -> tuple[str, ...]:
    """Architecture names that can be compiled for; without the compiler, the generic levels."""
    return _supported(find_mojo())


@functools.cache
def _supported(mojo: Path | None) -> tuple[str, ...]:
    """As this compiler says it; a process may find none now and one later."""
    if mojo is None:
        return tuple(feature_table.LEVELS) if _machine() == "x86_64" else ("generic",)
    triple = f"{_machine()}-unknown-linux-gnu"
    lines = _ask("--print-supported-cpus", "--target-triple", triple).splitlines()
    return tuple(line.strip() for line in lines[1:] if line.strip())


def simd_bytes(target: Target) -> int:
    """Width of the widest vector register: 64 with AVX-512, 32 with AVX2, else 16."""
    if "avx512f" in target.features:
        return 64
    return 32 if "avx2" in target.features else 16


def can_run(host: Target, arch_features: Collection[str]) -> bool:
    """Whether ``host`` runs code compiled for these features."""
    return feature_table.runs(host.features, arch_features)


def require_cpu(target: Target, what: str) -> None:
    """Raises TargetError where ``what`` is asked for a GPU."""
    if target.kind != "cpu":
        raise TargetError(
            f"{target.accelerator}: is a GPU, and {what} takes CPU targets alone; "
            "its kernels are tuned by `moetune tune --offline`"
        )


def level(target: Target) -> str:
    """The newest generic architecture that ``target`` runs: ``x86-64`` to ``x86-64-v4``."""
    return feature_table.level_of(target.features)


def compile_flags(target: Target) -> tuple[str, ...]:
    """The compiler's flags for ``target``, a function of the Target and of nothing else.

    The features are spelled out, the missing ones too: given a name alone, the compiler
    takes the host's features when the name is the host's, and the name's otherwise. A GPU's
    program runs on the compiling machine, whatever that is, and prints the GPU's code.
    """
    if target.kind == "gpu":
        return ("--target-accelerator", target.arch)
    missing = sorted(set(_features_of(target.arch)) - set(target.features))
    listed = [*(f"+{name}" for name in target.features), *(f"-{name}" for name in missing)]
    features = ("--target-features", ",".join(listed)) if listed else ()
    return ("--target-cpu", target.arch, *features)


def _features_of(arch: str) -> tuple[str, ...]:
    """All features of a named architecture, whatever the host has."""
    return _features(arch, find_mojo())


@functools.cache
def _features(arch: str, mojo: Path | None) -> tuple[str, ...]:
    if mojo is None:
        return tuple(sorted(feature_table.LEVELS.get(arch, frozenset())))
    baseline = "+sse2" if _machine() == "x86_64" else "+neon"  # any feature: see compile_flags
    answer = _ask("--print-effective-target", "--target-cpu", arch, "--target-features", baseline)
    return _effective(answer)[1]


def _host_arch(info: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Architecture and features of this machine, remembered in the cache folder."""
    flags = info.get("flags") or info.get("Features", "")
    mojo = find_mojo()
    if mojo is None:
        names = feature_table.from_cpuinfo(flags.split())
        return cpu_models.arch_of(info, names), names
    identity = (info.get("model name"), flags, str(mojo), os.stat(mojo).st_mtime_ns)
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    return _remembered(cache_dir() / f"host-{digest}.json")


@functools.cache
def _remembered(path: Path) -> tuple[str, tuple[str, ...]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged
        data = json_text.parse(path.read_bytes())
        return str(data["arch"]), tuple(map(str, data["features"]))
    arch, names = _effective(_ask("--print-effective-target"))
    _remember(path, json.dumps({"arch": arch, "features": names}))
    return arch, names


def _remember(path: Path, text: str) -> None:
    """Write at once or not at all. Only a shortcut: a full or read-only folder is no error."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode(), sync=False)


def _ask(*question: str) -> str:
    """What ``mojo build`` answers to a question about targets."""
    mojo = find_mojo()
    if mojo is None:
        raise TargetError("mojo: not found beside this Python nor on PATH; pip install moetune")
    try:
        done = run([mojo, "build", *question], timeout_s=_ASK_S)
    except OSError as error:
        raise TargetError(
            f"{mojo}: cannot be run ({error.strerror}); see `moetune doctor`"
        ) from error
    if done.returncode != 0:
        message = done.stderr.strip() or "no answer"
        raise TargetError(f"mojo build {' '.join(question)}: {message}; see `moetune doctor`")
    return done.stdout


def _effective(printed: str) -> tuple[str, tuple[str, ...]]:
    """Architecture and features in the answer to --print-effective-target."""
    found = dict(re.findall(r"--(target-cpu|target-features) (\S+)", printed))
    if len(found) != 2:
        raise TargetError(f"mojo build --print-effective-target: cannot read {printed!r}")
    return found["target-cpu"], feature_table.from_effective(found["target-features"])


def _machine() -> str:
    return platform.machine()


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo (empty where there is none)."""
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _vendor_id(info: Mapping[str, str]) -> str:
    return info.get("vendor_id") or info.get("CPU implementer", "")


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
