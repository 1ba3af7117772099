"""Where moetune keeps files on the user's machine, as the XDG Base Directory Specification has it.

A user without a home folder, such as a number that a container runs as, has a cache among the temporary files;
where what is his own should lie, he has to say.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from tuner.errors import UsageError


def cache_dir() -> Path:
    """The folder of what can be made again: ``MOETUNE_CACHE``, else the user's cache folder.

    Without a home folder it is one among the temporary files; raises UsageError where that is another user's.
    """
    named = os.environ.get("MOETUNE_CACHE")
    if named:
        return Path(named)
    base = _base("XDG_CACHE_HOME", ".cache")
    return base / "moetune" if base else _temporary()


def no_programs(path: Path) -> str | None:
    """What to say where nothing on the file system of ``path`` can be run (a mount with noexec), else None."""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return (
            f"{path}: lies on a file system that is mounted noexec, from which no kernel can be run; "
            "name a folder on another one in MOETUNE_CACHE"
        )
    return None


def data_dir() -> Path:
    """The folder of what is the user's own. Raises UsageError where he has no home folder."""
    return _own("XDG_DATA_HOME", ".local/share", "MOETUNE_DB to a database's file") / "moetune"


def trust_dir() -> Path:
    """The folder of public keys whose bundles may run: ``MOETUNE_TRUST``, else in the user's configuration.

    Raises UsageError where he has no home folder.
    """
    named = os.environ.get("MOETUNE_TRUST")
    if named:
        return Path(named)
    return _own("XDG_CONFIG_HOME", ".config", "MOETUNE_TRUST to a folder") / "moetune" / "trusted"


def traces_dir() -> Path:
    """The folder of recorded loads, beside the database that is meant when none is named."""
    named = os.environ.get("MOETUNE_DB")
    return (Path(named).parent if named else data_dir()) / "traces"


def _own(variable: str, usual: str, named: str) -> Path:
    base = _base(variable, usual)
    if base is None:
        raise UsageError(
            f"user {os.getuid()}: has no home folder (neither HOME nor an entry in passwd); "
            f"set HOME, or {named}"
        )
    return base


def _base(variable: str, usual: str) -> Path | None:
    """The folder of a variable, else in the home folder; None where there is neither. The specification says
    that one that is not absolute is ignored."""
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / usual
    except RuntimeError:
        return None


def _temporary() -> Path:
    """A folder of this user alone: what lies in it is run, so nobody else may write there."""
    mend = "set HOME, or MOETUNE_CACHE to a folder of yours"
    try:
        folder = Path(tempfile.gettempdir(), f"moetune-cache-{os.getuid()}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise UsageError(f"no folder for the cache can be made ({error}); {mend}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise UsageError(f"{folder}: others can write there; {mend}")
    return folder
