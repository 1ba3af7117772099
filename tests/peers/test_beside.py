"""The layer beside other libraries at the end of a session: what is measured, in which time, what is stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.kernels import TINY
from tests.rows import TARGET
from tuner.peers import beside, compare
from tuner.peers.compare import PeerRow
from tuner.peers.contestant import PeerError
from tuner.problem.workload import Workload
from tuner.store.database import Database
from tuner.target import named

TOOK = {Workload(64): 2e8, Workload(1): 1e6, Workload(16): 1e7}


def row(workload: Workload, peer: str) -> PeerRow:
    return PeerRow(
        workload.tokens, workload.load, peer, "k_a8", "exact", 1e6, 3e6, 3.0, 2.9, 3.1, 1.0, 1.0,
        "read", 0.5, "cold", form="gathered",
    )  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[Workload], Sequence[str]]]:
    """Comparisons are written down, and answered with 3 times our time."""
    held: list[tuple[Sequence[Workload], Sequence[str]]] = []

    def answer(
        problem: Any,
        target: Any,
        db: Any,
        workloads: Sequence[Workload],
        names: Sequence[str],
        **how: Any,
    ) -> Iterator[list[PeerRow]]:
        held.append((workloads, names))
        for workload in workloads:
            yield [row(workload, name) for name in names]

    monkeypatch.setattr(compare, "compare", answer)
    monkeypatch.setattr(compare, "installed", lambda: ("numpy", "torch"))
    return held


@pytest.fixture
def db(database: Any) -> Iterator[Database]:
    with Database(database) as opened:
        opened.add_problem(TINY)
        opened.add_target(TARGET)
        yield opened


def test_one_library_beside_each_workload_and_its_rows_are_stored(
    asked: list[Any], db: Database
) -> None:
    found = beside.beside(TINY, TARGET, db, TOOK, everything=False, time_s=600.0, session="s1")
    assert asked == [([Workload(1), Workload(16), Workload(64)], ("numpy",))]
    assert (set(found.rows), found.left_out) == (set(TOOK), "")
    stored = db.peer_times(TINY.digest)
    assert [(r.tokens, r.peer, r.ratio, r.session) for r in stored] == [
        (tokens, "numpy", 3.0, "s1") for tokens in (1, 16, 64)
    ]
    assert all(r.created and r.machine for r in stored)


def test_all_libraries_where_that_is_asked(asked: list[Any], db: Database) -> None:
    beside.beside(TINY, TARGET, db, TOOK, everything=True, time_s=0.0)
    assert asked[0][1] == ("numpy", "torch")
    assert len(db.peer_times(TINY.digest)) == 6


def test_another_library_where_the_first_cannot_run_it(asked: list[Any], db: Database) -> None:
    halves = TINY.replace(dtype="bfloat16", weight_dtype="bfloat16")
    db.add_problem(halves)
    beside.beside(halves, TARGET, db, TOOK, everything=False, time_s=600.0)
    assert asked[0][1] == ("torch",)


def test_what_does_not_fit_into_the_time_is_named(asked: list[Any], db: Database) -> None:
    times = iter([0.0, 5.0, 9.0])
    found = beside.beside(
        TINY, TARGET, db, TOOK, everything=False, time_s=10.0, clock=lambda: next(times)
    )
    assert set(found.rows) == {Workload(1), Workload(16)}
    assert (
        found.left_out == "numpy at 64 tokens: not measured for want of time; --peers measures it"
    )


def test_what_cannot_be_begun_is_told(
    asked: list[Any], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(**how: Any) -> str:
        given = {"everything": False, "time_s": 600.0, **how}
        return beside.beside(TINY, given.pop("target", TARGET), db, TOOK, **given).left_out

    assert (
        told(target=named("nvidia-h100"))
        == "no other library was measured: this is done on CPUs alone"
    )
    assert "it takes more than 4 s here; --peers measures it" in told(time_s=1.0)
    monkeypatch.setattr("tuner.problem.footprint.available_bytes", lambda: 1)
    assert "numpy: not measured, 0.0 GiB are needed" in told()
    monkeypatch.setattr(compare, "installed", lambda: ())
    assert told() == "no library that can run this layer is installed beside it"
    assert asked == []


def test_a_library_that_fails_takes_nothing_along(
    asked: list[Any], db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compare.compare

    def fails(*given: Any, **how: Any) -> Iterator[list[PeerRow]]:
        yield next(iter(whole(*given, **how)))
        raise PeerError("numpy: is wrong")

    monkeypatch.setattr(compare, "compare", fails)
    found = beside.beside(TINY, TARGET, db, TOOK, everything=False, time_s=600.0)
    assert set(found.rows) == {Workload(1)}
    assert found.left_out == "the comparison with numpy ended early: numpy: is wrong"
    assert dataclasses.asdict(db.peer_times(TINY.digest)[0])["peer"] == "numpy"
