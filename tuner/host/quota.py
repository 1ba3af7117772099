"""How many cores this process can keep busy within the quota of processor time of its control group.

Containers have such a quota (``--cpus``), and units of systemd (``CPUQuota``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Where that is not told.
_ROOTS = "0::/\n1:cpu:/\n"


def cores_within(count: int) -> int:
    """As many of ``count`` cores as the quota can keep busy, at least one.

    More threads than that would use the quota up early in each period and then all stand still, those
    among them for which the others wait.
    """
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> Iterator[float]:
    """The limits of this process's groups and of those around them, in cores; a container sees its own as the
    root, whatever path it has outside."""
    for controllers, path in _own_groups():
        if not controllers:  # version 2: "100000 100000", or "max 100000"
            for folder in _from_root(_CGROUPS, path):
                yield from _ratio(_words(folder / "cpu.max"))
        elif "cpu" in controllers.split(","):  # version 1: -1 where there is no limit
            for folder in _from_root(_first_version(controllers), path):
                limit, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
                yield from _ratio([*_words(limit), *_words(period)])


def _own_groups() -> Iterator[tuple[str, str]]:
    """Controllers, none in version 2, and the path of each group of this process ("4:cpu,cpuacct:/a/b")."""
    known = _OWN.read_text() if _OWN.is_file() else _ROOTS
    for line in known.splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path.strip("/")


def _first_version(controllers: str) -> Path:
    """Where the groups of these controllers are: together, or of each under its own name."""
    together = _CGROUPS / controllers
    return together if together.is_dir() else _CGROUPS / "cpu"


def _from_root(root: Path, path: str) -> list[Path]:
    """The folders of a group and of those around it."""
    group = root / path
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _ratio(words: list[str]) -> Iterator[float]:
    if len(words) == 2 and all(word.isdecimal() for word in words):
        yield int(words[0]) / int(words[1])
