"""File systems of one process alone: full, or read-only, also for root."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNS = 0x10000000, 0x00020000
_RDONLY, _REMOUNT = 1, 32
_libc = ctypes.CDLL(None, use_errno=True)
# What a process exits with where the system does not let it have mounts of its own.
NO_MOUNTS = 77


def alone() -> None:
    """From now on this process, which has one thread, has mounts of its own, or it exits."""
    user, group = os.getuid(), os.getgid()
    if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        os._exit(NO_MOUNTS)
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        os._exit(NO_MOUNTS)


def mount(folder: Path, size: str, *, again: bool = False, read_only: bool = False) -> None:
    """A file system in memory of a size, such as "16k"; `again` changes one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    flags = (_REMOUNT if again else 0) | (_RDONLY if read_only else 0)
    options = f"size={size}".encode()
    if _libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", flags, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
