"""Where moetune keeps files on the user's machine, as the XDG Base Directory Specification has it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of what can be made again: ``MOETUNE_CACHE``, else the user's cache folder."""
    named = os.environ.get("MOETUNE_CACHE")
    return Path(named) if named else _base("XDG_CACHE_HOME", ".cache") / "moetune"


def no_programs(path: Path) -> str | None:
    """What to say where nothing on the file system of ``path`` can be run (a mount with noexec), else None."""
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return (
            f"{path}: lies on a file system that is mounted noexec, from which no kernel can be run; "
            "name a folder on another one in MOETUNE_CACHE"
        )
    return None


def data_dir() -> Path:
    """The folder of what is the user's own."""
    return _base("XDG_DATA_HOME", ".local/share") / "moetune"


def trust_dir() -> Path:
    """The folder of public keys whose bundles may run: ``MOETUNE_TRUST``, else in the user's configuration."""
    named = os.environ.get("MOETUNE_TRUST")
    return Path(named) if named else _base("XDG_CONFIG_HOME", ".config") / "moetune" / "trusted"


def traces_dir() -> Path:
    """The folder of recorded loads, beside the database that is meant when none is named."""
    named = os.environ.get("MOETUNE_DB")
    return (Path(named).parent if named else data_dir()) / "traces"


def _base(variable: str, usual: str) -> Path:
    """The folder of a variable; the specification says that one that is not absolute is ignored."""
    named = Path(os.environ.get(variable, ""))
    return named if named.is_absolute() else Path.home() / usual
