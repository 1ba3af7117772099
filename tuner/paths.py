"""Where moetune keeps files on the user's machine."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """The folder of what can be made again: ``MOETUNE_CACHE``, else the platform's place."""
    named = os.environ.get("MOETUNE_CACHE")
    return Path(named) if named else platformdirs.user_cache_path("moetune")
