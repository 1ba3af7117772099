"""``moetune bench`` keeps what it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tuner.cli.commands import bench
from tuner.errors import DatabaseError
from tuner.peers import compare
from tuner.problem import PRESETS
from tuner.store.database import Database

ROW = compare.PeerRow(
    tokens=16, load="uniform", peer="numpy", variant="k_a8", match="exact",
    ours_median_ns=1e6, peer_median_ns=2.5e6, ratio=2.5, ratio_low=2.4, ratio_high=2.6,
    gflop_s=100.0, gb_s=40.0, ceiling="fma", ceiling_fraction=0.71, temperature="cold",
    form="grouped", version="2.4",
)  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "side_by_side", lambda *arguments: [ROW])
    monkeypatch.setattr(compare, "installed", lambda: ("numpy",))


def test_times_are_kept_in_the_database(moetune: Run, database: Path) -> None:
    assert moetune("bench classic-moe --tokens 16").code == 0
    with Database(database, read_only=True) as db:
        (kept,) = db.peer_times(PRESETS["classic-moe"].digest)
    assert (kept.peer, kept.version, kept.tokens, kept.ratio) == ("numpy", "2.4", 16, 2.5)


def test_times_are_told_where_they_cannot_be_kept(
    moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> Database:
        raise DatabaseError("FILE: cannot grow, the disk is full")

    monkeypatch.setattr(bench, "Database", full)
    said = moetune("bench classic-moe --tokens 16")
    assert said.code == 0
    assert "the times are not kept: FILE: cannot grow, the disk is full" in said.err
    assert "numpy (grouped)" in said.out
