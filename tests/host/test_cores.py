"""Which hardware threads a job measures on."""

from __future__ import annotations

from tuner.host.cores import spread


def pairs(core: int) -> frozenset[int]:
    """Eight threads of four cores: 0 and 4 share one."""
    return frozenset({core, (core + 4) % 8})


def test_one_thread_of_each_core_first() -> None:
    assert spread(2, range(8), pairs) == {0, 1}
    assert spread(2, {0, 4, 6}, pairs) == {0, 6}
    assert spread(3, {0, 4, 6}, pairs) == {0, 4, 6}
    assert spread(5, range(8), pairs) == {0, 1, 2, 3, 4}


def test_neighbours_that_share_a_core() -> None:
    assert spread(2, range(4), lambda core: frozenset({core & ~1, core | 1})) == {0, 2}


def test_a_system_that_does_not_tell() -> None:
    assert spread(2, {3, 5, 7}, lambda core: frozenset()) == {3, 5}
