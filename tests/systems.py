"""macOS, as far as Python shows it: for a process of its own, before it imports tuner.

python -c 'from tests.systems import pretend; pretend(); import tuner'
"""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
import urllib.request

# They read files of their own system, and remember what these say.
sysconfig.get_config_vars()
assert urllib.request
# What Python has on Linux alone, as far as moetune uses it.
LACKING = ("sched_getaffinity", "sched_setaffinity", "memfd_create", "pidfd_open")


def pretend() -> None:
    """Makes this process one on macOS on ARM64, where pip has not installed the compiler."""
    sys.platform = "darwin"
    platform.system = lambda: "Darwin"
    platform.machine = lambda: "arm64"
    for function in LACKING:
        delattr(os, function)
    for module in ("mojo", "max"):
        sys.modules[module] = None  # type: ignore[assignment]
