"""Fork: a process that is forked keeps its layers; their worker threads stay behind and are started anew.

A lock that another thread holds at that moment would stay locked in the child for ever. So whoever forks
waits for it: for a call that is running, for weights that are being packed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Protocol


class Lock(Protocol):
    """A `threading.RLock`: only who took it can release it."""

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


def hold(lock: Lock, in_child: Callable[[], None] = lambda: None) -> None:
    """Has the lock held over each fork of this process; `in_child` runs in the child before it is free."""

    def freed_in_parent() -> None:
        # A signal's exception ends the wait, and the fork goes on: it is another thread's then.
        with contextlib.suppress(RuntimeError):
            lock.release()

    def freed_in_child() -> None:
        try:
            in_child()
        finally:
            try:
                lock.release()
            except RuntimeError:  # its holder was not forked; the standard library frees its own so
                lock._at_fork_reinit()  # type: ignore[attr-defined]

    os.register_at_fork(
        before=lock.acquire, after_in_parent=freed_in_parent, after_in_child=freed_in_child
    )
