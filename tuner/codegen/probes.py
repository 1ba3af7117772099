"""Probes: the programs that measure a target's ceilings, compiled.

``tuner.measure.probe`` and ``tuner.measure.gpu_probe`` run them, where there may be no compiler.
"""

from __future__ import annotations

from pathlib import Path

from tuner.codegen.compile import compile_source
from tuner.codegen.render import fill
from tuner.target import Target, simd_bytes
from tuner.target.roofline import has_dot

# With so many loads on their way in a thread of a GPU, registers leave room for so many blocks.
_GPU_VALUES = {"threads": 256, "loads": 8, "blocks": 5}


def of_cpu(target: Target) -> Path:
    """The library that measures cores of a target. Raises CompileError where there is no toolchain."""
    lanes = simd_bytes(target) // 4
    values = {
        "simd_width": lanes,
        "accumulators": 24 if lanes == 16 else 12,
        "dot": int(has_dot(target)),
    }
    return compile_source(fill("probe_cpu", values), target).path


def of_gpu(target: Target) -> Path:
    """The program that reads a GPU's memory. Raises CompileError where there is no toolchain."""
    values = {"arch": target.arch, **_GPU_VALUES}
    return compile_source(fill("probe_gpu", values), target).path
