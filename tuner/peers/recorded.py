"""Recorded: the rows of a comparison as rows of the database, so that pages and lists show them later."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tuner.problem import Problem
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import now
from tuner.target import Target

if TYPE_CHECKING:
    from tuner.peers.compare import PeerRow  # it brings the compiler and more


def record(
    db: Database, problem: Problem, target: Target, rows: Iterable[PeerRow], session: str = ""
) -> int:
    """Store the rows of peers that ran; return how many. One moment stands for all of them.

    Raises DatabaseError where the database cannot be written.
    """
    with db.transaction():
        keys = db.add_problem(problem), db.add_target(target)
        created = now()
        found = [_row(keys, problem, target, row, session, created) for row in rows if _ran(row)]
        db.record_peer_times(found)
    return len(found)


def _ran(row: PeerRow) -> bool:
    return not row.refused and row.peer_median_ns > 0


def _row(
    keys: tuple[str, str],
    problem: Problem,
    target: Target,
    row: PeerRow,
    session: str,
    created: str,
) -> PeerTimeRow:
    return PeerTimeRow(
        problem_id=keys[0], target_id=keys[1], tokens=row.tokens, load=row.load, peer=row.peer,
        version=row.version, form=row.form, dtype=problem.dtype, temperature=row.temperature,
        median_ns=row.peer_median_ns, low_ns=row.peer_low_ns, high_ns=row.peer_high_ns,
        ours_ns=row.ours_median_ns, ratio=row.ratio, ratio_low=row.ratio_low,
        ratio_high=row.ratio_high, variant=row.variant, match=row.match,
        machine=target.name, session=session, created=created,
    )  # fmt: skip
