"""Folders and files that nobody else may write: extracted binaries, and the keys that are trusted.

A binary is kept under its SHA-256 and read again, and compared, each time before it is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from tuner.errors import BundleDigestError, BundleFolderError
from tuner.host import files

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """`path`, made with mode 0700 where it is not there.

    Raises BundleFolderError where it is no folder, another user's, open to others, or cannot be made.
    """
    _make(path)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise BundleFolderError(f"{path}: is no folder; remove it, or name another MOETUNE_CACHE")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise BundleFolderError(
            f"{path}: belongs to another user or is open to others; `chmod 700` it, or remove it"
        )
    return path


def unwritable_folder(path: Path) -> Path:
    """`path`, made where it is not there. Raises BundleFolderError where others could write it."""
    _make(path)
    check_unwritable(path)
    return path


def check_unwritable(path: Path) -> None:
    """Raises BundleFolderError where a user who is neither this one nor root could write `path`."""
    try:
        status = path.stat()
    except OSError as error:
        raise _cannot(path, error) from error
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & _OTHERS_WRITE:
        raise BundleFolderError(
            f"{path}: others could write it; `chmod go-w` it, and look at it first"
        )


def kept(folder: Path, content: bytes, sha256: str, mode: int, suffix: str) -> Path:
    """The file of this content in a private folder, written where it is lacking or was altered.

    What is returned was read back from disk and has this SHA-256.

    Raises:
        BundleFolderError: it cannot be written.
        BundleDigestError: it reads back as something else.
    """
    path = private_folder(folder) / f"{sha256}{suffix}"
    if not _is_sound(path, len(content), sha256):
        write_whole(path, content, mode)
        if not _is_sound(path, len(content), sha256):
            raise BundleDigestError(f"{path}: does not read back as written; check the disk")
    return path


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Write a file of our own at once or not at all, with this mode from its first moment on its name.

    Raises BundleFolderError where it cannot be written.
    """
    try:
        files.replace_whole(path, content, mode)
    except OSError as error:
        raise _cannot(path, error) from error


def _is_sound(path: Path, size: int, sha256: str) -> bool:
    """Whether a plain file of this user lies there, closed to other writers, with this content."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    with os.fdopen(number, "rb") as stream:
        status = os.fstat(number)
        ours = status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE
        if not (stat.S_ISREG(status.st_mode) and ours and status.st_size == size):
            return False
        return hashlib.sha256(stream.read(size + 1)).hexdigest() == sha256


def _make(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
    except OSError as error:
        raise _cannot(path, error) from error


def _cannot(path: Path, error: OSError) -> BundleFolderError:
    return BundleFolderError(
        f"{path}: cannot be used ({error.strerror}); mend its permissions, or name another folder"
    )
