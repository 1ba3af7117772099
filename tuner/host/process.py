"""Run another program with a time limit."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# A process that left its group may still hold the pipes after the kill: don't wait for it.
_DRAIN_S = 2.0


@dataclass(frozen=True)
class Completed:
    """How a program ended. ``returncode`` is negative (-signal) when a signal ended it."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float
    timed_out: bool


def run(
    cmd: Sequence[str | os.PathLike[str]],
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> Completed:
    """Run ``cmd`` in a process group of its own; at ``timeout_s`` seconds kill the whole group.

    ``env`` is laid over this process's environment. Raises OSError where ``cmd`` cannot start.
    """
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
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        return child.communicate(timeout=_DRAIN_S)
    except subprocess.TimeoutExpired as late:
        child.wait()
        return _text(late.stdout), _text(late.stderr)


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""
