"""Run another program with a time limit, and end it where it is no longer wanted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tuner.errors import MoetuneError
from tuner.host import watchdog

# A process that left its group may still hold the pipes after the kill: don't wait for it.
_DRAIN_S = 2.0


class NoLongerWanted(MoetuneError):
    """A program was ended, or not begun, since whoever asked for it has stopped."""


@dataclass(frozen=True)
class Completed:
    """How a program ended. ``returncode`` is negative (-signal) when a signal ended it."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool


class Children:
    """The programs that some threads run, so that another thread can end them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def adopt(self) -> None:
        """From now on what this thread runs is among these."""
        _of_thread.children = self

    def end(self) -> None:
        """Kill those that run; none is begun any more. Their ``run`` raises NoLongerWanted."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for child in running:
            if child.returncode is None:
                _kill_group(child)

    @contextlib.contextmanager
    def holding(self, child: subprocess.Popen[str]) -> Iterator[None]:
        """While inside, ``end`` ends this one, too."""
        with self._lock:
            self._running.add(child)
            ended = self._ended
        try:
            if ended:
                _kill_group(child)
            yield
        finally:
            with self._lock:
                self._running.discard(child)
        if self._ended:
            raise NoLongerWanted(
                f"{child.args!r}: ended, since the work that needed it has stopped"
            )


_of_thread = threading.local()


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads for what runs programs; an exception inside ends those, and begins no more."""
    children = Children()
    with ThreadPoolExecutor(workers, initializer=children.adopt) as made:
        try:
            yield made
        except BaseException:
            made.shutdown(wait=False, cancel_futures=True)
            children.end()
            raise


def run(
    cmd: Sequence[str | os.PathLike[str]],
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run ``cmd`` in a process group of its own; at ``timeout_s`` seconds kill the whole group.

    The group is killed, too, when an exception comes or this process ends in whatever way. ``env`` is laid
    over this process's environment. Raises OSError where ``cmd`` cannot start, and NoLongerWanted where the
    ``Children`` of this thread were ended.
    """
    watchdog.ready()
    start = time.perf_counter()
    child = subprocess.Popen(
        cmd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    timed_out = False
    children: Children | None = getattr(_of_thread, "children", None)
    with (
        watchdog.watching(child.pid),
        children.holding(child) if children else contextlib.nullcontext(),
    ):
        try:
            stdout, stderr = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            stdout, stderr = _kill(child)
        except BaseException:  # Ctrl-C in this process must not leave the group running
            _kill(child)
            raise
    seconds = time.perf_counter() - start
    return Completed(child.returncode, stdout, stderr, seconds, timed_out)


def _kill(child: subprocess.Popen[str]) -> tuple[str, str]:
    """End the group of ``child`` and return what it had written."""
    _kill_group(child)
    try:
        return child.communicate(timeout=_DRAIN_S)
    except subprocess.TimeoutExpired as late:
        child.wait()
        return _text(late.stdout), _text(late.stderr)


def _kill_group(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
