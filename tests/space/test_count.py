"""Counts of spaces: against enumeration where that is possible, with an interval where it is not."""

from __future__ import annotations

import pytest

from tests.kernels import TINY
from tuner.problem import PRESETS
from tuner.space import count
from tuner.space import space as spaces
from tuner.space.space import Restriction, Space
from tuner.target import Target

TARGET = Target("amd", "znver5", ("avx512f", "fma"), 2, 48 << 10, 1 << 20, 32 << 20)


def space(*rules: str, size: int = 10) -> Space:
    values = {name: tuple(range(size)) for name in "abcd"}
    default = dict.fromkeys(values, 0)
    return Space("t", values, default, tuple(Restriction(r, "why") for r in rules), {"most": 12})


@pytest.mark.parametrize(
    "rules",
    [
        (),
        ("a + b < most",),
        ("a + b < most", "c != d"),
        ("a + b < most", "b <= c", "d % 2 == 0"),
        ("most > 20",),
        ("most > 10", "a < 3"),
        ("a < 0",),
    ],
)
def test_counts_are_those_of_the_enumeration(rules: tuple[str, ...]) -> None:
    where = space(*rules, size=6)
    found = count.count(where)
    assert found.exact
    assert found.value == sum(1 for _ in where.points())


def test_large_groups_are_drawn_from_and_say_how_sure_that_is() -> None:
    where = space("a + b + c < most", "d > 4")
    exact = count.count(where)
    drawn = count.count(where, most_counted=100)
    assert exact.exact
    assert not drawn.exact
    assert drawn.low < exact.value < drawn.high
    assert drawn.high - drawn.low < 0.15 * exact.value
    assert count.count(where, most_counted=100, seed=1) != drawn


def test_a_share_that_was_never_drawn_is_not_taken_for_none() -> None:
    drawn = count.count(space("a + b + c > 26", size=10), most_counted=10)
    assert drawn.low <= 10 < drawn.high


@pytest.mark.parametrize("tokens", [1, 16, 1024])
def test_the_templates_space_is_counted_exactly(tokens: int) -> None:
    file = spaces.load("moe_cpu")
    for problem in (TINY, PRESETS["granite-3.0-1b-a400m"]):
        whole = spaces.resolve(file, problem, TARGET, tokens)
        found = count.count(whole)
        assert found.exact
        assert 1000 < found.value < whole.size()


def test_a_pinned_space_of_the_template_agrees_with_its_enumeration() -> None:
    whole = spaces.resolve(spaces.load("moe_cpu"), TINY, TARGET, 1)
    free = ("tile_rows", "tile_vectors", "act_block", "unroll", "gemv_below", "gemv_chains")
    pinned = whole.pin({n: v for n, v in whole.default.items() if n not in free})
    assert count.count(pinned).value == sum(1 for _ in pinned.points())
