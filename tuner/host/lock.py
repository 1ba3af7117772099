"""Turns: one tuner at a time works with a database; another one waits.

Two that measure at the same time disturb each other, and would try the same variants. The lock is the
system's, on a file beside the database, so that it goes with the process that holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from tuner.errors import DatabaseError

# The stage of a session that has not begun.
WAITING = "waiting for another tuner"


@contextlib.contextmanager
def turn(database: Path, wait: Callable[[], None]) -> Iterator[None]:
    """The time in which no other tuner works with a database; `wait` is called where one does.

    Raises DatabaseError where the file for the lock cannot be made or locked.
    """
    path = database.with_name(f"{database.name}-lock")
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a"))
            if not _is_free(file):
                wait()
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise DatabaseError(
                f"{path}: cannot be locked ({error.strerror}); put the database into a folder of "
                "yours on a local disk, with --db or MOETUNE_DB"
            ) from error
        yield


def _is_free(file: TextIO) -> bool:
    """Takes the lock, where nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
