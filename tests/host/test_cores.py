"""Which hardware threads a job measures on, and how many threads a kernel gets."""

from __future__ import annotations

import os

import pytest

from tuner.host import cores
from tuner.host.cores import pool_size, separate, spread, usable


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


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads of four cores, no quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "of_same_core", pairs)
    monkeypatch.setattr(cores, "cores_within", lambda count: count)


def test_cores_are_counted_once() -> None:
    assert separate(range(8), pairs) == 4
    assert separate({0, 4, 6}, pairs) == 2
    assert separate({4, 6}, pairs) == 2
    assert separate({3, 5, 7}, lambda core: frozenset()) == 3


@pytest.mark.usefixtures("eight")
def test_a_pool_has_all_threads_but_no_more_than_are_asked_for() -> None:
    assert usable() == 8
    assert [pool_size(most) for most in (0, 1, 5, 8, 64)] == [8, 1, 5, 8, 8]


@pytest.mark.usefixtures("eight")
def test_second_threads_of_cores_work_only_where_they_were_measured() -> None:
    assert [pool_size(0, tuned) for tuned in (1, 2, 4, 6, 8, 64)] == [4, 4, 4, 6, 8, 8]
    assert pool_size(3, 2) == 3


@pytest.mark.usefixtures("eight")
def test_a_quota_bounds_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores_within", lambda count: min(count, 3))
    assert (usable(), pool_size(), pool_size(2, 8), pool_size(0, 1)) == (3, 3, 2, 3)
