"""Peer times: what other libraries took for a workload, beside ours, as rows of the table ``peer_times``.

They are append-only, like measurements: two rows of one peer and workload are two dates of it. Exports
of winners do not hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuner.store.records import now

TABLE = "peer_times"
READ = f"""SELECT * FROM {TABLE} WHERE problem_id = :problem_id
    AND (:target_id IS NULL OR target_id = :target_id) ORDER BY created, id"""


@dataclass(frozen=True, kw_only=True)
class PeerTimeRow:
    """What a peer took for one workload, and our time in the same session where there is one.

    Attributes:
        problem_id, target_id: of rows of ``problems`` and ``targets``, which are digests.
        peer, version: the library's name, as ``moetune bench --against`` takes it, and its own version;
            empty where that is not known.
        form: the fastest of the peer's ways to compute the layer.
        dtype: the type of the peer's weights.
        temperature: of the weights: ``cold`` or ``warm``.
        median_ns, low_ns, high_ns: its median and the 95 % interval; None where that was not kept.
        ours_ns: our median in the same session; None where nothing of ours ran beside it.
        ratio, ratio_low, ratio_high: the peer's time / ours, paired, with its 95 % interval: above 1 ours
            is faster. None where nothing of ours ran beside it.
        variant, match: our kernel in that session, and how it was selected.
        machine: what people call it; the label of the target tells more.
        session: names the run that measured it; rows of one session were interleaved.
        created: UTC, ISO 8601; the time of recording unless given.
    """

    problem_id: str
    target_id: str
    tokens: int
    load: str
    peer: str
    dtype: str
    median_ns: float
    version: str = ""
    form: str = ""
    temperature: str = "cold"
    low_ns: float | None = None
    high_ns: float | None = None
    ours_ns: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    variant: str = ""
    match: str = ""
    machine: str = ""
    session: str = ""
    created: str = ""


def stored(row: PeerTimeRow) -> dict[str, Any]:
    """The columns of a row that is to be recorded."""
    return {**vars(row), "created": row.created or now()}


def read(columns: Mapping[str, Any]) -> PeerTimeRow:
    """The row of its columns, as ``READ`` gives them."""
    return PeerTimeRow(**{name: value for name, value in columns.items() if name != "id"})
