"""Endings: how a command ends, whatever ends it, as one line on stderr and an exit code.

Errors of the project say their own line. Beside them come those of the system, which can come anywhere: a
signal, a stdout that takes no more, a disk that is full, memory that is used up.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from tuner.host.terminal import one_line

SAID_NO, CALLED_WRONGLY = 1, 2
# Added to a signal's number, as shells have it.
BY_SIGNAL = 128
# Those that ask a process to end, besides Ctrl-C's, of which Python makes a KeyboardInterrupt.
_ENDING = (signal.SIGTERM, signal.SIGHUP)
# What commands end with; docs/commands.md has this table, and the codes that are of one command alone.
EXIT_CODES = {
    0: "it ran",
    SAID_NO: "it ran, and the answer is no",
    CALLED_WRONGLY: "it was called wrongly",
    BY_SIGNAL + signal.SIGINT: "stopped by Ctrl-C",
    BY_SIGNAL + signal.SIGTERM: "stopped by SIGTERM",
    BY_SIGNAL + signal.SIGHUP: "stopped by SIGHUP",
}
# What escapes a command without being an error of the project.
OF_THE_SYSTEM = (OSError, MemoryError, RecursionError, UnicodeEncodeError)


class Ended(KeyboardInterrupt):
    """A signal asks this process to end: what runs is put away as at Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(error: BaseException | None) -> int:
    """What a stopped command ends with: 130 of Ctrl-C, 143 of SIGTERM, 129 of SIGHUP."""
    number = error.number if isinstance(error, Ended) else signal.SIGINT
    return BY_SIGNAL + number


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """While inside, the signals that ask a process to end raise Ended; a second one ends it at once.

    One that is ignored, as under nohup, stays ignored, and one that has a handler keeps it.
    """
    mine = []
    if threading.current_thread() is threading.main_thread():
        mine = [n for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL]
    try:
        for number in mine:
            signal.signal(number, _end)
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Ended(number)


def told(error: BaseException) -> str:
    """An error of the system in one line: what it is about, and what mends it."""
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({error})' if str(error) else ''}; ask for a smaller layer or fewer tokens"
    if isinstance(error, RecursionError):
        return "the input is nested too deeply; give a file that a tool wrote"
    if isinstance(error, UnicodeEncodeError):
        text = ascii(error.object[error.start : error.end])
        return f"output: its encoding {error.encoding} has no {text}; set PYTHONIOENCODING=utf-8"
    assert isinstance(error, OSError)
    return f"{error.filename or 'output'}: {error.strerror or error}; mend it, or name another"


def refuse(message: str, code: int) -> int:
    """Say why a command ends, where anybody listens; returns the exit code."""
    with contextlib.suppress(OSError):
        print(f"moetune: {one_line(' '.join(message.splitlines()))}", file=sys.stderr, flush=True)
    return code


def failed(error: BaseException) -> int:
    """Say which error of the system ended a command; what it printed before is shown if it can be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, UnicodeEncodeError):
        _drop_stdout()
    return refuse(told(error), 1)


def written(code: int) -> int:
    """The exit code, once all that was printed has arrived; 1 instead of 0 where it cannot.

    Whoever reads no further than a line knows that; every other reason is told.
    """
    if sys.stdout is None:  # closed before this process began: nobody asked for what is printed
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
        return code or 1
    except (OSError, UnicodeEncodeError) as error:
        _drop_stdout()
        return refuse(told(error), code or 1)
    return code


def _drop_stdout() -> None:
    """What is left in the buffer goes nowhere: else Python would try again as it ends, and say so."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
