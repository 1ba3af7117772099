from __future__ import annotations

import pytest

from tuner.errors import SpaceError
from tuner.space.expression import evaluate, names_in


def test_arithmetic_and_conditions() -> None:
    assert evaluate("a * 2 + 1 if b > 3 else max(a, 9)", {"a": 4, "b": 4}) == 9
    assert evaluate("a * 2 + 1 if b > 3 else max(a, 9)", {"a": 4, "b": 3}) == 9
    assert evaluate("not (a % 2 == 0 and b < 3)", {"a": 3, "b": 1}) == 1


def test_names() -> None:
    assert names_in("min(a, b) + 1") == {"a", "b"}


@pytest.mark.parametrize("text", ["__import__('os')", "a.b", "[1][0]", "(lambda: 1)()", "1 +"])
def test_nothing_else_is_allowed(text: str) -> None:
    with pytest.raises(SpaceError):
        evaluate(text, {"a": 1})


def test_unknown_name_is_told_with_the_known() -> None:
    with pytest.raises(SpaceError, match="tile_row is not known; known: cores, tile_rows"):
        evaluate("tile_row > cores", {"cores": 2, "tile_rows": 4})


@pytest.mark.parametrize(("number", "power"), [(0, 0), (1, 1), (7, 4), (8, 8), (-3, 0)])
def test_power_of_two(number: int, power: int) -> None:
    assert evaluate("power_of_two(n)", {"n": number}) == power
