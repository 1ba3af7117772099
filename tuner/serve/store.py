"""Store: the read-only connection of a service, and the moment at which the database last changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tuner.errors import DatabaseError
from tuner.store.database import Database

Version = tuple[int, ...]
Answer = TypeVar("Answer")


class Store:
    """The database for reading. A file that was replaced by another one is opened anew.

    A question may take ``most_s`` in all. Questions run in threads; what tells the version has a
    connection of its own, so that it never waits for them.
    """

    def __init__(self, path: Path, most_s: float) -> None:
        self.path = path
        self._most_s = most_s
        self._deadline = threading.local()
        self._lock = threading.Lock()
        self._file: tuple[int, int] | None = None
        self._opened = 0
        self._asked: Database | None = None
        self._watched: Database | None = None

    def version(self) -> Version:
        """A value that differs from an earlier one if anybody wrote in between.

        Raises:
            DatabaseError: the file is not there, damaged, or of another version of moetune.
        """
        with self._lock:
            _, watched = self._current()
            return (self._opened, *watched.data_version())

    def ask(self, question: Callable[[Database], Answer]) -> Answer:
        """The answer to a question. Raises DatabaseError as ``version`` does."""
        with self._lock:
            asked, _ = self._current()
        self._deadline.at = time.monotonic() + self._most_s
        return question(asked)

    def quick(self, question: Callable[[Database], Answer]) -> Answer:
        """The answer to a question of a few rows by their keys, which need not wait for the others."""
        with self._lock:
            _, watched = self._current()
        return question(watched)

    def close(self) -> None:
        """Close the connections; the next question opens new ones."""
        with self._lock:
            self._close()

    def _current(self) -> tuple[Database, Database]:
        try:
            status = self.path.stat()
        except OSError as error:
            self._close()
            message = f"{self.path}: cannot be read ({error.strerror}); put the database back"
            raise DatabaseError(message) from error
        file = (status.st_dev, status.st_ino)
        if self._asked is None or self._watched is None or file != self._file:
            self._close()
            self._asked = Database(self.path, read_only=True)
            self._watched = Database(self.path, read_only=True)
            self._asked.stop_when(self._late)
            self._file, self._opened = file, self._opened + 1
        return self._asked, self._watched

    def _late(self) -> bool:
        """Asked in the thread of the question."""
        return time.monotonic() > float(self._deadline.at)

    def _close(self) -> None:
        for database in filter(None, (self._asked, self._watched)):
            database.close()
        self._asked = self._watched = None
