"""Target: the hardware that a kernel is compiled for and measured on."""

from tuner.target.features import older
from tuner.target.target import (
    KINDS,
    Target,
    can_run,
    compile_flags,
    detect,
    level,
    named,
    require_cpu,
    simd_bytes,
    supported,
)

__all__ = [
    "KINDS",
    "Target",
    "can_run",
    "compile_flags",
    "detect",
    "level",
    "named",
    "older",
    "require_cpu",
    "simd_bytes",
    "supported",
]
