"""Which part of a fat bundle runs here: the newest architecture whose code this processor can run.

Of the parts for GPUs it is that of the very card, else one for another card of its architecture.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence

from tuner.bundle.manifest import Part
from tuner.errors import BundleArchitectureError
from tuner.target import Target, can_run
from tuner.target.features import LEVELS, UNUSED_BY_CODE, older

_UNKNOWN = 1000


def ladder(parts: Sequence[Part], host: Target) -> list[Part]:
    """The parts that `host`, a processor or a GPU, can run, the best first.

    Of a processor that is the order in which `tuner.target.older` falls back. On a host that is only known
    by its level (without a compiler nothing tells more), a part whose code runs and that falls back to
    another one is the better of the two.

    Raises:
        BundleArchitectureError: there is none; says what the nearest one lacks.
    """
    if host.kind == "gpu":
        return _cards(parts, host)
    here = [part for part in parts if part.machine == platform.machine()]
    fit = [part for part in here if can_run(host, part.target.features)]
    if not fit:
        raise BundleArchitectureError(_why(parts, here, host))
    names = {part.target.arch for part in fit}
    known = host.arch not in LEVELS and host.arch != "generic"
    steps = {arch: step for step, arch in enumerate((host.arch, *older(host.arch)))}

    def rank(part: Part) -> tuple[int, int, int]:
        arch = part.target.arch
        step = steps.get(arch, _UNKNOWN) if known else 0
        return step, -len(names.intersection(older(arch))), -len(part.target.features)

    return sorted(fit, key=rank)


def _cards(parts: Sequence[Part], host: Target) -> list[Part]:
    fit = [p for p in parts if p.target.kind == "gpu" and p.target.arch == host.arch]
    if not fit:
        raise BundleArchitectureError(
            f"it is for {_labels(parts)}, and this GPU is {host.label} ({host.arch}); build it for that"
        )
    return sorted(fit, key=lambda part: part.target.accelerator != host.accelerator)


def _labels(parts: Sequence[Part]) -> str:
    return ", ".join(dict.fromkeys(part.target.label for part in parts))


def _why(parts: Sequence[Part], here: Sequence[Part], host: Target) -> str:
    if all(part.target.kind == "gpu" for part in parts):
        return f"it is for {_labels(parts)} alone; name the GPU: device='cuda:0'"
    if not here:
        machines = ", ".join(sorted({part.machine for part in parts}))
        return f"it is for {machines}, this machine is {platform.machine()}; build it for this one"

    def lacks(part: Part) -> list[str]:
        return sorted(set(part.target.features) - UNUSED_BY_CODE - set(host.features))

    nearest = min(here, key=lambda part: len(lacks(part)))
    missing = ", ".join(lacks(nearest)[:4])
    return f"code for {nearest.target.arch} needs {missing}, which is not here; build it for {host.arch}"
