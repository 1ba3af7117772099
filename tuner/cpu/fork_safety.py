"""Fork: a process that is forked keeps its layers; their worker threads stay behind and are started anew.

A lock that another thread holds at that moment would stay locked in the child for ever. So whoever forks
waits for it: for a call that is running, for weights that are being packed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol


class Lock(Protocol):
    """What `threading.Lock` and `threading.RLock` have in common."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


def hold(lock: Lock, in_child: Callable[[], None] = lambda: None) -> None:
    """Has the lock held over each fork of this process; `in_child` runs in the child before it is free."""

    def freed_in_child() -> None:
        in_child()
        lock.release()

    os.register_at_fork(
        before=lock.acquire, after_in_parent=lock.release, after_in_child=freed_in_child
    )
