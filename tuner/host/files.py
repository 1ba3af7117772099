"""The one way in which this project writes a file: whole or not at all, and only where a file is meant."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import UsageError

# How long a FIFO is waited for until somebody reads it.
FIFO_S = 10.0
_RETRY_S = 0.02
# Of a name at most so much stands in that of its draft, which may be no longer than others.
_MOST_NAME = 40


def write_whole(path: Path, data: bytes, mode: int | None = None, *, sync: bool = True) -> None:
    """Writes a file in one step: whoever reads it meanwhile finds the former one.

    A symbolic link stays, and the file that it leads to is written. What is no plain file (a device, a FIFO) is
    written into as it is.

    Args:
        mode: permissions of the file; those of the former file, or what the umask leaves, unless given.
        sync: the data are on the disk before they have the name. Off for what can be made again.

    Raises OSError where it cannot be written; then nothing is left of it.
    """
    try:
        there = path.stat()
    except FileNotFoundError:  # nothing, or a link that leads to nothing yet
        _replace(Path(os.path.realpath(path)), data, mode, None, sync)
        return
    real = Path(os.path.realpath(path))
    if stat.S_ISREG(there.st_mode) and _is(real, there):
        _replace(real, data, mode, there, sync)
    else:
        _write_into(path, data, there.st_mode)


def replace_whole(path: Path, data: bytes, mode: int) -> None:
    """Writes a file of our own in one step; it takes the place of whatever lies there, a link too.

    Raises OSError where it cannot be written; then nothing is left of it.
    """
    _replace(path, data, mode, None, True)


def write_named(path: Path, data: bytes) -> None:
    """Writes a file that a user named, as `write_whole` does. Raises UsageError where it cannot be written."""
    try:
        write_whole(path, data)
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); name another file"
        ) from error


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes a file where nothing is yet.

    Raises OSError where something is, a link too, or it cannot be written; then nothing is left of it.
    """
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with _gone_unless_done(path), os.fdopen(number, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(number)


def append_line(path: Path, line: str) -> None:
    """Adds a line of text, on a line of its own even where the last one was cut; it is on the disk then.

    Raises OSError where it cannot be written; a part of it may stand there.
    """
    with path.open("a+b") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else f"\n{line}"
        stream.write(f"{line}\n".encode())
        stream.flush()
        os.fsync(stream.fileno())


def _is(path: Path, there: os.stat_result) -> bool:
    """Whether that is the same file: what is open and has no name any more cannot be replaced."""
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), there)
    return False


def _replace(
    path: Path, data: bytes, mode: int | None, former: os.stat_result | None, sync: bool
) -> None:
    # Another name could be too long, and a name that others can guess could lead elsewhere.
    draft = path.with_name(f".{path.name[:_MOST_NAME]}.{secrets.token_hex(8)}")
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with _gone_unless_done(draft):
        wanted = former.st_mode if mode is None and former is not None else mode
        narrow = 0o666 if wanted is None else 0o600  # until the file is whole
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, narrow)
        with os.fdopen(number, "wb") as stream:
            stream.write(data)
            stream.flush()
            if former is not None:
                _keep_owner(number, former)
            if wanted is not None:
                os.fchmod(number, stat.S_IMODE(wanted))
            if sync:
                os.fsync(number)
        os.replace(draft, path)


@contextlib.contextmanager
def _gone_unless_done(draft: Path) -> Iterator[None]:
    """Whatever ends the writing, Ctrl-C too, leaves no part of a file."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def _keep_owner(number: int, former: os.stat_result) -> None:
    """Only root gives files to others; elsewhere who writes a file owns it."""
    with contextlib.suppress(OSError):
        os.fchown(number, former.st_uid, former.st_gid)


def _write_into(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(_opened(path, mode), "wb") as stream:
        stream.write(data)


def _opened(path: Path, mode: int) -> int:
    """Open what is there for writing. A FIFO that nobody reads would hold us for ever: it is waited for."""
    if not stat.S_ISFIFO(mode):
        return os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOCTTY)
    end = time.monotonic() + FIFO_S
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                said = f"nobody has read this FIFO for {FIFO_S:g} s"
                raise OSError(errno.ENXIO, said, str(path)) from error
            time.sleep(_RETRY_S)
        else:
            os.set_blocking(number, True)
            return number
