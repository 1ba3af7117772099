"""The watchdog: a small process that outlives this one by a moment, and kills what it has left running.

A process that is killed cannot end its compilers and kernels, nor one that a signal ends before Python sees
it. The watchdog reads from a pipe which process groups are running; when the pipe ends, as it does with this
process whatever ended it, it kills those that are left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

# "+GROUP" and "-GROUP", a line each. It is nobody's child, so that who waits for all of his children does not
# wait for it, and leaves this session, so that what ends that does not end it.
_PROGRAM = """
import os, signal, sys
if os.fork():
    os._exit(0)
os.setsid()
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class _Watchdog:
    """The one of this process: the end of the pipe that it writes to, once it was started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe: int | None = None

    def tell(self, line: str) -> None:
        """Where there can be none (no descriptors or processes are left), what is run is run without."""
        with self._lock, contextlib.suppress(OSError):
            if self._pipe is None:
                self._pipe = _started()
            if line:
                os.write(self._pipe, line.encode())

    def forget(self) -> None:
        """In the child of a fork, which has one of its own: the parent's ends with the parent alone."""
        self._lock = threading.Lock()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


_watchdog = _Watchdog()
os.register_at_fork(after_in_child=_watchdog.forget)


def ready() -> None:
    """Starts it, which takes a moment, before what it is to watch."""
    _watchdog.tell("")


def watch(group: int) -> None:
    """From now on a process group ends with this process."""
    _watchdog.tell(f"+{group}\n")


def forget(group: int) -> None:
    """A process group has ended: its number may be another's from now on."""
    _watchdog.tell(f"-{group}\n")


@contextlib.contextmanager
def watching(group: int) -> Iterator[None]:
    """While inside, a process group ends with this process."""
    try:
        watch(group)
        yield
    finally:
        forget(group)


def _started() -> int:
    """The end of the new one's pipe to write to."""
    theirs, mine = os.pipe()
    try:
        null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
        actions = [(os.POSIX_SPAWN_DUP2, theirs, 0), null, (os.POSIX_SPAWN_DUP2, 1, 2)]
        command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
        between = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        os.waitpid(between, 0)
    except OSError:
        os.close(mine)
        raise
    finally:
        os.close(theirs)
    return mine
