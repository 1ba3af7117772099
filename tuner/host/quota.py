"""What the control groups of this process let it have: cores that it can keep busy, and memory.

Containers have such limits (``--cpus``, ``--memory``), and units of systemd (``CPUQuota``, ``MemoryMax``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Where that is not told.
_ROOTS = "0::/\n1:cpu:/\n2:memory:/\n"


def cores_within(count: int) -> int:
    """As many of ``count`` cores as the quota can keep busy, at least one.

    More threads than that would use the quota up early in each period and then all stand still, those
    among them for which the others wait.
    """
    return max(1, min([count, *map(math.ceil, _quotas())]))


def bytes_within(count: int) -> int:
    """As many of ``count`` free bytes as the limits of memory leave."""
    return max(0, min([count, *_left()]))


def _quotas() -> Iterator[float]:
    """The limits of this process's groups and of those around them, in cores."""
    for second, folder in _groups("cpu"):
        if second:  # "100000 100000", or "max 100000"
            yield from _ratio(_words(folder / "cpu.max"))
        else:  # -1 where there is no limit
            limit, period = folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us"
            yield from _ratio([*_words(limit), *_words(period)])


def _left() -> Iterator[int]:
    """What is left of each limit of memory, in bytes; the cache of files that lie idle is given up for it."""
    for second, folder in _groups("memory"):
        names = ("max", "current") if second else ("limit_in_bytes", "usage_in_bytes")
        words = [word for name in names for word in _words(folder / f"memory.{name}")]
        if len(words) == 2 and all(word.isdecimal() for word in words):
            stat = _words(folder / "memory.stat")
            facts = dict(zip(stat[::2], stat[1::2], strict=False))
            idle = facts.get("inactive_file" if second else "total_inactive_file", "0")
            yield int(words[0]) - int(words[1]) + int(idle)


def _groups(controller: str) -> Iterator[tuple[bool, Path]]:
    """The folders of this process's groups with a controller and of those around them, and whether each is of
    version 2; a container sees its own as the root, whatever path it has outside."""
    for controllers, path in _own_groups():
        if not controllers:
            yield from ((True, folder) for folder in _from_root(_CGROUPS, path))
        elif controller in controllers.split(","):
            root = _first_version(controllers, controller)
            yield from ((False, folder) for folder in _from_root(root, path))


def _own_groups() -> Iterator[tuple[str, str]]:
    """Controllers, none in version 2, and the path of each group of this process ("4:cpu,cpuacct:/a/b")."""
    known = _OWN.read_text() if _OWN.is_file() else _ROOTS
    for line in known.splitlines():
        _, controllers, path = line.split(":", 2)
        yield controllers, path.strip("/")


def _first_version(controllers: str, one: str) -> Path:
    """Where the groups of these controllers are: together, or of each under its own name."""
    together = _CGROUPS / controllers
    return together if together.is_dir() else _CGROUPS / one


def _from_root(root: Path, path: str) -> list[Path]:
    """The folders of a group and of those around it."""
    group = root / path
    return [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.is_file() else []


def _ratio(words: list[str]) -> Iterator[float]:
    if len(words) == 2 and all(word.isdecimal() for word in words):
        yield int(words[0]) / int(words[1])
