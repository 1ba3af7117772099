"""Peer times: what other libraries took, from the database and from files of benchmarks/cpu_peers.py.

Both are rows of one type, ``tuner.store.peer_times.PeerTimeRow``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import UsageError
from tuner.host import json_text
from tuner.problem import Problem
from tuner.store.peer_times import PeerTimeRow
from tuner.target import Target

# model, dtype
Layer = tuple[str, str]


class PeerFile:
    """The rows of one file of benchmarks/cpu_peers.py (its option --out), or of none.

    Raises:
        UsageError: the file is not one of these.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._rows: dict[Layer, list[PeerTimeRow]] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            told = json_text.parse(path.read_bytes())
            for row in told["rows"]:
                if not row["refused"] and row["experts"] == row["of_experts"]:
                    found = _row(row, told["runs"][row["run"]])
                    self._rows.setdefault((row["model"], row["dtype"]), []).append(found)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            mend = "give a file that benchmarks/cpu_peers.py --out wrote"
            raise UsageError(f"{path}: no file of peers' times ({error!r}); {mend}") from error

    def of(self, problem: Problem, target: Target) -> list[PeerTimeRow]:
        """The rows of a problem by its label, of machines like the target as far as the file says."""
        name = problem.name.removesuffix(f"-{problem.dtype}")
        rows = self._rows.get((name, problem.dtype), [])
        return [row for row in rows if _is_of(row.machine, target)]


def _row(told: Mapping[str, Any], run: Mapping[str, str]) -> PeerTimeRow:
    return PeerTimeRow(
        problem_id="", target_id="", tokens=int(told["tokens"]), load=str(told["load"]),
        peer=str(told["peer"]), version=str(told.get("version", "")), form=str(told["form"]),
        dtype=str(told["dtype"]), temperature=str(told["temperature"]),
        median_ns=float(told["peer_median_ns"]), low_ns=told.get("peer_low_ns"),
        high_ns=told.get("peer_high_ns"), ours_ns=float(told["ours_median_ns"]),
        ratio=float(told["ratio"]), ratio_low=float(told["ratio_low"]),
        ratio_high=float(told["ratio_high"]), variant=str(told["variant"]),
        match=str(told["match"]), machine=run.get("machine", ""), created=run.get("date", ""),
    )  # fmt: skip


def _is_of(machine: str, target: Target) -> bool:
    """Whether what a file says of its machine begins like the target; one that says nothing may be of any."""
    first = (target.name, target.accelerator) if target.kind == "gpu" else (target.arch,)
    return not machine or machine.startswith(tuple(filter(None, first)))


def latest(rows: Iterable[PeerTimeRow]) -> list[PeerTimeRow]:
    """The newest row of each workload, peer and type, by load, tokens and how fast the peer was."""
    newest: dict[tuple[str, int, str, str], PeerTimeRow] = {}
    for row in sorted(rows, key=lambda row: row.created):
        newest[row.load, row.tokens, row.peer, row.dtype] = row
    return sorted(newest.values(), key=_place)


def _place(row: PeerTimeRow) -> tuple[bool, str, int, float]:
    return row.load != "uniform", row.load, row.tokens, row.median_ns


def proven_faster(row: PeerTimeRow) -> bool:
    """Whether ours is: the interval of the ratio lies above 1."""
    return row.ratio_low is not None and row.ratio_low > 1


def proven_slower(row: PeerTimeRow) -> bool:
    """Whether ours is slower: the interval of the ratio lies below 1."""
    return row.ratio_high is not None and row.ratio_high < 1


def by_peer(rows: Sequence[PeerTimeRow]) -> dict[str, list[PeerTimeRow]]:
    """The rows of each peer, those with the most rows first."""
    found: dict[str, list[PeerTimeRow]] = {}
    for row in rows:
        found.setdefault(row.peer, []).append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))
