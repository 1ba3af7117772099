"""Drafts: folders in which something is made before it is moved to its place.

A draft is locked by the process that works in it. What a killed process left is locked by nobody, and is
swept away by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def build_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder in `parent`, hence on its file system; gone at the end."""
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    draft, lock = _locked_draft(parent)
    try:
        yield draft
    finally:
        for left in parent.glob(f"{draft.name}*"):
            shutil.rmtree(left, ignore_errors=True)
        os.close(lock)


def _locked_draft(parent: Path) -> tuple[Path, int]:
    """A fresh folder and the descriptor that holds its lock, where its file system has locks."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=".build-", dir=parent))
        lock = _open(draft)
        if lock is not None and (_take(lock) is not False) and draft.exists():
            return draft, lock
        if lock is not None:  # a sweep came between the two steps
            os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove what killed processes left: what nobody has locked. Ages would say nothing where the
    clock jumps."""
    for draft in parent.glob(".build-*"):
        lock = _open(draft)
        if lock is not None:
            if _take(lock):
                shutil.rmtree(draft, ignore_errors=True)
            os.close(lock)


def _open(folder: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    return None


def _take(descriptor: int) -> bool | None:
    """Whether the lock was free and is taken now; None where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
