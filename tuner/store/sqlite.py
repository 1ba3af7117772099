"""Open an SQLite file, and say of its errors what is wrong with which file and what mends it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import DatabaseError

# How long a write waits for another process that holds the file. A copy or a check of a large
# database takes half a minute; what was measured meanwhile is worth more than that.
BUSY_TIMEOUT_S = 120.0
_RETRY_S = 0.01
ELSEWHERE = "or name another file with --db or MOETUNE_DB"

# What SQLite's name of an error begins with -> what is wrong and what mends it.
_MENDS = {
    "SQLITE_NOTADB": f"is not a database; move it away and import best.jsonl, {ELSEWHERE}",
    "SQLITE_CORRUPT": f"is damaged; move it away and import best.jsonl, {ELSEWHERE}",
    "SQLITE_READONLY": f"is read-only; make the file and its folder writable, {ELSEWHERE}",
    "SQLITE_CANTOPEN": f"cannot be opened; make the file and its folder accessible, {ELSEWHERE}",
    "SQLITE_BUSY": f"is held by another process; end it or wait for it, {ELSEWHERE}",
    "SQLITE_FULL": f"cannot grow, the disk is full; make room, {ELSEWHERE}",
    "SQLITE_IOERR": f"cannot be read or written; look at the disk, {ELSEWHERE}",
    "SQLITE_INTERRUPT": "took too long to answer; ask for less at a time",
    "SQLITE_CONSTRAINT": "refuses this row; give what the schema asks for",
}


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """Open ``path``; for writing, make it and its folder where they are missing.

    Raises:
        DatabaseError: a folder, a folder that cannot be made, or (``read_only``) no such file.
        sqlite3.Error: the rest; see ``explained``.
    """
    if read_only:
        return _connect_reading(path)
    if os.path.isdir(path):
        raise _is_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{path.parent}: cannot be made ({error.strerror}); make it {ELSEWHERE}"
        raise DatabaseError(message) from error
    return _connect_uri(path, "mode=rwc")


def use_log(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log, so that others read while one process writes.

    SQLite does not wait here when another process is doing the same, so this function does.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors about ``path`` into DatabaseError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", None) or ""
        mend = next((text for name, text in _MENDS.items() if code.startswith(name)), None)
        told = f"{mend} (SQLite: {error})" if mend else f"{error}"
        raise DatabaseError(f"{path}: {told}") from error


def require_file(path: Path) -> None:
    """Raises DatabaseError where there is no such file, or a folder."""
    if os.path.isdir(path):  # unlike Path.is_dir, it does not raise where it may not look
        raise _is_folder(path)
    if not os.path.exists(path):
        raise DatabaseError(
            f"{path}: is not there or out of reach; tune or import first, {ELSEWHERE}"
        )


def _is_folder(path: Path) -> DatabaseError:
    return DatabaseError(f"{path}: is a folder, not a file; name a file in it with --db")


def _connect_reading(path: Path) -> sqlite3.Connection:
    require_file(path)
    connection = _connect_uri(path, "mode=ro")
    try:
        connection.execute("PRAGMA user_version").fetchone()
        return connection
    except sqlite3.OperationalError:
        # The index of the log cannot be made in a folder that is read-only. Where there is no
        # log either, nobody is writing, and the file can be read as it lies.
        connection.close()
        if path.with_name(f"{path.name}-wal").exists() or not os.access(path, os.R_OK):
            raise
    return _connect_uri(path, "immutable=1")


def _connect_uri(path: Path, options: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?{options}"
    # Database has a lock of its own for use by several threads, so SQLite's check is off.
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
