"""The operating system: kernels run on Linux alone; elsewhere moetune reads what was measured there."""

from __future__ import annotations

import platform
import sys

from tuner.errors import TargetError

_NAMES = {"Darwin": "macOS"}


def is_linux() -> bool:
    """Whether kernels may be compiled and run on this system."""
    return sys.platform == "linux"


def require_linux() -> None:
    """Raises TargetError on another system; it says what works there."""
    if not is_linux():
        system = platform.system()
        raise TargetError(
            f"this machine runs {_NAMES.get(system, system)} on {platform.machine()}: kernels are tuned, "
            "compiled and run on Linux on x86-64; use a container or a virtual machine. Here tuner.Client, "
            "tuner.Database and the commands that read results or bundles work"
        )
