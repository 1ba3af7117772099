"""Rows of a comparison in the database: those of peers that ran."""

from __future__ import annotations

from pathlib import Path

from tests.rows import PROBLEM, TARGET
from tuner.peers.compare import PeerRow
from tuner.peers.recorded import record
from tuner.peers.table import PEERS
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow

ROW = PeerRow(
    tokens=4, load="uniform", peer="numpy", variant="k_a8", match="exact", ours_median_ns=100.0,
    peer_median_ns=150.0, ratio=1.5, ratio_low=1.4, ratio_high=1.6, gflop_s=1.0, gb_s=1.0,
    ceiling="read", ceiling_fraction=0.9, temperature="cold", form="BLAS threads", version="2.4",
    peer_low_ns=140.0, peer_high_ns=160.0,
)  # fmt: skip
REFUSED = PeerRow(
    **vars(ROW) | {"peer": "onnxruntime", "refused": "has no such form", "ratio": 0.0, "peer_median_ns": 0.0}
)  # fmt: skip


def test_who_ran_is_stored(database: Path) -> None:
    with Database(database) as db:
        assert record(db, PROBLEM, TARGET, [ROW, REFUSED], session="s") == 1
        (found,) = db.peer_times(PROBLEM.digest, TARGET.digest)
    assert found == PeerTimeRow(
        problem_id=PROBLEM.digest, target_id=TARGET.digest, tokens=4, load="uniform", peer="numpy",
        version="2.4", form="BLAS threads", dtype="float32", temperature="cold", median_ns=150.0,
        low_ns=140.0, high_ns=160.0, ours_ns=100.0, ratio=1.5, ratio_low=1.4, ratio_high=1.6,
        variant="k_a8", match="exact", machine="Test CPU", session="s", created=found.created,
    )  # fmt: skip


def test_a_peer_says_its_version() -> None:
    import numpy as np

    assert PEERS["numpy"].version() == np.__version__
