"""Other machines to run the tests on: `pytest --host znver3`, or `python -m tests.hosts` for one after another.

The process takes itself to run there by what a system tells of its processors: the files of /proc and /sys,
and the cores of its affinity. There is no compiler: it would tell of the processor that is there in truth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tuner.host import caches, cores, interference, quota
from tuner.select import select
from tuner.target import target

_V3 = """fpu cx8 cmov mmx fxsr sse sse2 ht syscall nx rdtscp lm pni pclmulqdq ssse3 fma cx16 sse4_1 sse4_2
movbe popcnt aes xsave avx f16c rdrand hypervisor lahf_lm abm 3dnowprefetch fsgsbase bmi1 avx2 bmi2 rdseed adx
clflushopt clwb sha_ni xsaveopt xsavec xsaves rdpid"""
_ZEN2 = f"{_V3} sse4a clzero wbnoinvd"
_ZEN3 = f"{_ZEN2} invpcid pku vaes vpclmulqdq"
_V4 = """avx512f avx512dq avx512ifma avx512cd avx512bw avx512vl avx512vbmi avx512_vbmi2 avx512_vnni
avx512_bitalg avx512_vpopcntdq avx512_bf16 gfni"""
_SAPPHIRE_RAPIDS = f"""{_V3} {_V4} invpcid pku vaes vpclmulqdq avx_vnni avx512_fp16 amx_bf16 amx_tile amx_int8
wbnoinvd movdiri movdir64b"""
_GRAVITON3 = """fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc
dcpop sha3 sm3 sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs paca pacg dcpodp svei8mm svebf16
i8mm bf16 dgh rng"""


@dataclass(frozen=True)
class Host:
    """A machine as its system tells of it: each core's fields in /proc/cpuinfo, and how large the data caches
    of a core are, from the first level on, as sysfs writes it. `cpu_max` is the quota of processor time: of
    each so many microseconds (the second number) the process may use so many (the first)."""

    machine: str
    cpuinfo: Mapping[str, str]
    caches: tuple[str, ...]
    cores: int
    threads_per_core: int = 1
    cpu_max: str = "max 100000"


def _x86(vendor: str, name: str, family: int, model: int, flags: str) -> dict[str, str]:
    return {
        "vendor_id": vendor,
        "cpu family": str(family),
        "model": str(model),
        "model name": name,
        "flags": " ".join(flags.split()),
    }


_ZEN4 = Host(
    "x86_64",
    _x86("AuthenticAMD", "AMD EPYC 9R14", 25, 17, f"{_ZEN3} {_V4}"),
    ("32K", "1024K", "32768K"),
    cores=8,
)
HOSTS = {
    "znver2": Host(
        "x86_64",
        _x86("AuthenticAMD", "AMD EPYC 7R32", 23, 49, _ZEN2),
        ("32K", "512K", "16384K"),
        cores=8,
        threads_per_core=2,
    ),
    "znver3": Host(
        "x86_64",
        _x86("AuthenticAMD", "AMD EPYC 7R13", 25, 1, _ZEN3),
        ("32K", "512K", "32768K"),
        cores=8,
        threads_per_core=2,
    ),
    "znver4": _ZEN4,
    "sapphirerapids": Host(
        "x86_64",
        _x86("GenuineIntel", "Intel(R) Xeon(R) Platinum 8488C", 6, 143, _SAPPHIRE_RAPIDS),
        ("48K", "2048K", "107520K"),
        cores=8,
        threads_per_core=2,
    ),
    "graviton3": Host(
        "aarch64",
        {
            "Features": " ".join(_GRAVITON3.split()),
            "CPU implementer": "0x41",
            "CPU architecture": "8",
            "CPU part": "0xd40",
        },
        ("64K", "1024K", "32768K"),
        cores=8,
    ),
    "1-core": dataclasses.replace(_ZEN4, cores=1),
    "128-cores": dataclasses.replace(_ZEN4, cores=128, threads_per_core=2),
    "1-cpu-quota": dataclasses.replace(_ZEN4, cpu_max="100000 100000"),
}


class _Affinity(threading.local):
    """Which cores each thread may run on, as a system with so many keeps it, but that none is inherited."""

    def __init__(self, count: int) -> None:
        self.there = self.allowed = frozenset(range(count))

    def get(self, pid: int) -> set[int]:
        return set(self.allowed)

    def set(self, pid: int, wanted: Collection[int]) -> None:
        if not self.there & set(wanted):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if pid == 0:  # other processes stay where they are
            self.allowed = self.there & set(wanted)


@contextlib.contextmanager
def on(host: Host) -> Iterator[None]:
    """Inside, this process takes itself to run on another machine."""
    affinity = _Affinity(host.cores)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        _write(host, folder)
        patch.setattr(target, "_CPUINFO", folder / "cpuinfo")
        patch.setattr(interference, "_STAT", folder / "stat")
        patch.setattr(quota, "_OWN", folder / "cgroup" / "own")
        patch.setattr(quota, "_CGROUPS", folder / "cgroup")
        patch.setattr(cores, "_FOLDER", folder / "cpu")
        patch.setattr(caches, "_FOLDER", folder / "cpu" / "cpu0" / "cache")
        patch.setattr(target, "find_mojo", lambda: None)
        patch.setattr(platform, "machine", lambda: host.machine)
        patch.setattr(os, "cpu_count", lambda: host.cores)
        patch.setattr(os, "sched_getaffinity", affinity.get)
        patch.setattr(os, "sched_setaffinity", affinity.set)
        _forget()
        yield
    _forget()


def _forget() -> None:
    """What is remembered of a machine for the life of a process."""
    for remembered in (target._features, target._remembered, target._supported, select._host):
        remembered.cache_clear()


def _write(host: Host, folder: Path) -> None:
    """The files that the system of this machine would have, as far as moetune reads them."""
    fields = "".join(f"{name}\t: {value}\n" for name, value in host.cpuinfo.items())
    blocks = [f"processor\t: {core}\n{fields}\n" for core in range(host.cores)]
    texts = {"cpuinfo": "".join(blocks)}
    texts["stat"] = "".join(f"cpu{core} 9 0 9 999 0 0 0 0 0 0\n" for core in range(host.cores))
    apart = host.cores // host.threads_per_core
    texts |= {"cgroup/own": "0::/\n", "cgroup/cpu.max": f"{host.cpu_max}\n"}
    for core in range(host.cores):
        threads = sorted((core + apart * n) % host.cores for n in range(host.threads_per_core))
        texts[f"cpu/cpu{core}/topology/thread_siblings_list"] = ",".join(map(str, threads))
    for level, size in enumerate(host.caches, 1):
        facts = {"type": "Unified" if level > 1 else "Data", "level": level, "size": size}
        for name, fact in facts.items():
            texts[f"cpu/cpu0/cache/index{level}/{name}"] = str(fact)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def main(names: Sequence[str]) -> int:
    """Run the tests that need no compiler as on each of these machines, or on all of them."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-m", "not slow and not timed"]
    red = [name for name in names or HOSTS if subprocess.run([*command, "--host", name]).returncode]
    print(f"red: {', '.join(red)}" if red else "green on every machine")
    return bool(red)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
