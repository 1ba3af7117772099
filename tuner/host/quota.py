"""How many cores this process can keep busy within the quota of processor time of its control group.

Containers have such a quota (``--cpus``), and units of systemd (``CPUQuota``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def cores_within(count: int) -> int:
    """As many of ``count`` cores as the quota can keep busy, at least one.

    More threads than that would use the quota up early in each period and then all stand still, those
    among them for which the others wait.
    """
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """The limits of the group and of those around it, in cores; a container sees its own as the root."""
    group = _CGROUPS / _own_group()
    for folder in (group, *group.parents):
        if folder.is_relative_to(_CGROUPS):  # version 2: "100000 100000", or "max 100000"
            yield from _ratio(_words(folder / "cpu.max"))
    first = _CGROUPS / "cpu"  # version 1: -1 where there is no limit
    yield from _ratio([*_words(first / "cpu.cfs_quota_us"), *_words(first / "cpu.cfs_period_us")])


def _own_group() -> str:
    """The path of this process's group, version 2, below the root."""
    lines = _OWN.read_text().splitlines() if _OWN.is_file() else []
    return next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _ratio(words: list[str]) -> Iterator[float]:
    if len(words) == 2 and all(word.isdecimal() for word in words):
        yield int(words[0]) / int(words[1])
