"""Lines of tests/winners.jsonl as objects, and changed ones as text."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.services import BEST
from tuner.space import templates

Change = Callable[[dict[str, Any]], None]


def stored() -> list[dict[str, Any]]:
    """Every line; made by the template as it is now."""
    rows = [json.loads(text) for text in BEST.read_text().splitlines()]
    for row in rows:
        for tried in filter(None, (row["tried"], row["default"])):
            tried["trial"]["environment"]["template"] = templates.digest("moe_cpu")
    return rows


def text(*rows: dict[str, Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row, allow_nan=True) + "\n" for row in rows).encode()


def won() -> dict[str, Any]:
    """A line whose winner is another variant than the default, proven."""
    return next(row for row in stored() if not row["winner"]["is_default"])


def faster(factor: float) -> dict[str, Any]:
    """The same workload measured at another speed, in another session."""
    row = won()
    row["tried"]["trial"]["session"] = f"session {factor}"
    for part, names in (
        (row["tried"]["measurement"], ("median_ns", "low_ns", "high_ns")),
        (row["winner"], ("median_ns",)),
    ):
        for name in names:
            part[name] /= factor
    return row


def unproven() -> dict[str, Any]:
    """The same workload, much faster, but the ratio's interval holds 1."""
    row = faster(10.0)
    row["winner"] |= {"ratio_low": 0.1, "ratio": 0.5, "ratio_high": 1.01}
    return row
