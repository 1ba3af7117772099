"""How many cores this process may use, which hardware threads share one, and which of them to measure on.

All of it is asked where a kernel runs, never where it was built.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from tuner.host.quota import cores_within

_FOLDER = Path("/sys/devices/system/cpu")


def usable() -> int:
    """As many hardware threads as this process may run on and its quota of processor time keeps busy."""
    return cores_within(len(os.sched_getaffinity(0)))


def pool_size(most: int = 0, tuned: int | None = None) -> int:
    """How many threads share one call here: of those that are usable at most `most`; 0: all.

    `tuned`: of how many hardware threads the choice was made that there should be as many. More than that are
    used where each has a core of its own: a core's second thread only where that was measured.
    """
    count = usable()
    if tuned is not None:
        count = min(count, max(tuned, separate(os.sched_getaffinity(0), of_same_core)))
    return min(count, most or count)


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


def separate(allowed: Collection[int], siblings: Callable[[int], frozenset[int]]) -> int:
    """How many cores the allowed hardware threads are of, threads of one core counted once."""
    return len({min(siblings(thread).intersection(allowed) | {thread}) for thread in allowed})
