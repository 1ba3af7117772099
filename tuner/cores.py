"""Which hardware threads share a physical core, and which of them to measure on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

_FOLDER = Path("/sys/devices/system/cpu")


def of_same_core(core: int) -> frozenset[int]:
    """The hardware threads of a core's physical core (sysfs: "0-1" or "0,64"); none where it does not tell."""
    path = _FOLDER / f"cpu{core}" / "topology" / "thread_siblings_list"
    found: set[int] = set()
    if path.is_file():
        for part in path.read_text().strip().split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def spread(
    wanted: int,
    allowed: Collection[int],
    siblings: Callable[[int], frozenset[int]] = of_same_core,
) -> frozenset[int]:
    """So many of the allowed ones, a second thread of a core only where there are too few cores."""
    left = sorted(allowed)
    ordered: list[int] = []
    while left and len(ordered) < wanted:
        taken: set[int] = set()
        for core in left:
            if core not in taken:
                ordered.append(core)
                taken |= siblings(core) | {core}
        left = [core for core in left if core not in ordered]
    return frozenset(ordered[:wanted])
