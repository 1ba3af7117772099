"""How many examples a property is tried with: the same few each time, or many fresh ones by `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FUZZ = "MOETUNE_FUZZ"  # in the environment: how many times as many examples, and new ones each time


def tried(examples: int) -> settings:
    """Settings of a property. A test fails for a change, never for the draw of a day."""
    times = int(os.environ.get(FUZZ, "0"))
    return settings(
        max_examples=examples * max(times, 1),
        derandomize=not times,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
