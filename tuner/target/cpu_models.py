"""Which architecture a processor is, by the numbers that it gives itself, where no compiler can be asked.

Names are LLVM's, the numbers those of CPUID (x86-64) and of the main ID register (Arm) as /proc/cpuinfo prints
them. The compiler finds the same names by the same numbers; a test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from tuner.target.features import LEVELS, level_of, older

# Family 6 of Intel, by model.
_INTEL = {
    **dict.fromkeys((0x3C, 0x3F, 0x45, 0x46), "haswell"),
    **dict.fromkeys((0x3D, 0x47, 0x4F, 0x56), "broadwell"),
    **dict.fromkeys((0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6), "skylake"),
    0x55: "skylake-avx512",
    **dict.fromkeys((0x6A, 0x6C), "icelake-server"),
    **dict.fromkeys((0x7D, 0x7E), "icelake-client"),
    **dict.fromkeys((0x8C, 0x8D), "tigerlake"),
    0xA7: "rocketlake",
    **dict.fromkeys((0x97, 0x9A), "alderlake"),
    **dict.fromkeys((0xB7, 0xBA, 0xBF), "raptorlake"),
    **dict.fromkeys((0xAA, 0xAC), "meteorlake"),
    0x8F: "sapphirerapids",
    0xCF: "emeraldrapids",
    0xAD: "graniterapids",
}
# AMD: family, first and last model.
_AMD = (
    (0x17, 0x00, 0x2F, "znver1"),
    (0x17, 0x30, 0xAF, "znver2"),
    (0x19, 0x00, 0x0F, "znver3"),
    (0x19, 0x10, 0x1F, "znver4"),
    (0x19, 0x20, 0x5F, "znver3"),
    (0x19, 0x60, 0xAF, "znver4"),
    (0x1A, 0x00, 0x4F, "znver5"),
    (0x1A, 0x60, 0x77, "znver5"),
)
# Arm's own cores, by part.
_ARM = {0xD0C: "neoverse-n1", 0xD40: "neoverse-v1", 0xD49: "neoverse-n2", 0xD4F: "neoverse-v2"}


def arch_of(info: Mapping[str, str], features: Collection[str]) -> str:
    """The architecture of a processor, by its fields in /proc/cpuinfo and its features.

    One that is not known, or of which a virtual machine hides so much that it is of an older level, is known by
    its level alone (``x86-64-v3``; ``generic`` on another machine).
    """
    found, level = _by_number(info, features), level_of(features)
    levels = [name for name in older(found) if name in LEVELS] if found else []
    return found if found and level in (levels[:1] or ["generic"]) else level


def _by_number(info: Mapping[str, str], features: Collection[str]) -> str | None:
    vendor = info.get("vendor_id") or info.get("CPU implementer")
    if vendor == "0x41":
        return _ARM.get(int(info.get("CPU part", "0"), 16))
    family, model = (_number(info.get(name, "")) for name in ("cpu family", "model"))
    if vendor == "GenuineIntel" and family == 6:
        if model == 0x55 and "avx512bf16" in features:
            return "cooperlake"
        if model == 0x55 and "avx512vnni" in features:
            return "cascadelake"
        return _INTEL.get(model)
    if vendor == "AuthenticAMD":
        rows = (name for of, low, high, name in _AMD if of == family and low <= model <= high)
        return next(rows, None)
    return None


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else -1
