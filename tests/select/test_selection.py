"""Distances of selection: one unit for all who rank winners."""

from __future__ import annotations

import pytest

from tuner.select.selection import octaves


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [(16, 128, 3.0), (128, 16, 3.0), (0, 1, 0.0), (0, 8, 3.0), (0.25, 0.5, 1.0), (7, 7, 0.0)],
)
def test_octaves_are_doublings(a: float, b: float, apart: float) -> None:
    """Rows of an expert may be less than one; no tokens count as one."""
    assert octaves(a, b) == apart
