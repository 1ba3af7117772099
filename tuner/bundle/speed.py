"""The speed of a bundle's kernels here, against what was measured where they were tuned."""

from __future__ import annotations

from typing import Any

from tuner.bundle.manifest import Evidence, Part

# Below this share of the shipped fraction of the ceiling a kernel is slower than shipped: other caches and
# cores shift what a roofline says by tenths, code for the wrong processor by halves.
SLOWER = 0.75
# Cells whose shipped time is longer than this are left out: the check is quick.
MOST_NS = 100e6


def compared(row: Evidence, fraction: float, foreign: float) -> dict[str, Any]:
    """What is reported of one workload: the fraction of the ceiling here and where it was tuned, and what part
    of the machine others took."""
    shipped = float(row.row["ceiling_fraction"])
    return {
        "tokens": row.tokens,
        "load": row.load,
        "variant": row.variant,
        "fraction": round(fraction, 4),
        "shipped_fraction": round(shipped, 4),
        "slower": fraction < SLOWER * shipped,
        "foreign": round(foreign, 4),
    }


def cells(part: Part) -> list[Evidence]:
    """The measured workloads to repeat: of each variant the quickest that has a fraction of the ceiling."""
    best: dict[str, Evidence] = {}
    for row in part.evidence:
        fraction, median_ns = row.row.get("ceiling_fraction"), row.row.get("median_ns")
        if not isinstance(fraction, float) or not isinstance(median_ns, float):
            continue
        known = best.get(row.variant)
        if median_ns <= MOST_NS and (known is None or median_ns < known.row["median_ns"]):
            best[row.variant] = row
    return list(best.values())
