"""How large this machine's caches are."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_FOLDER = Path("/sys/devices/system/cpu/cpu0/cache")
# _SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE and _SC_LEVEL3_CACHE_SIZE, for which Python has no names.
_GLIBC = {1: 188, 2: 191, 3: 194}


def sizes() -> dict[int, int]:
    """Bytes of the data (or unified) caches by level, as the system tells them."""
    found: dict[int, int] = {}
    for index in sorted(_FOLDER.glob("index*")):
        kind, depth, size = (
            (index / part).read_text().strip() for part in ("type", "level", "size")
        )
        if kind != "Instruction":
            found[int(depth)] = _bytes(size)
    return found or _of_libc()


def _of_libc() -> dict[int, int]:
    """The same as glibc has it from the processor: some containers have no such folder."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    return {depth: max(0, os.sysconf(number)) for depth, number in _GLIBC.items()}


def _bytes(size: str) -> int:
    """``48K`` -> 49152."""
    return (
        int(size[:-1]) * {"K": 1 << 10, "M": 1 << 20}[size[-1]] if size[-1] in "KM" else int(size)
    )
