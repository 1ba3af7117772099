"""Peer times: what other libraries took, from a file of benchmarks/cpu_peers.py (its option --out)."""

from __future__ import annotations

from pathlib import Path

from tuner.errors import UsageError
from tuner.host import json_text
from tuner.problem import Problem

# Peer -> (tokens, ns), by tokens.
Times = dict[str, list[tuple[int, float]]]


class PeerTimes:
    """The rows of one file, or of none.

    Raises:
        UsageError: the file is not one of these.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._times: dict[tuple[str, str, str], Times] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            for row in json_text.parse(path.read_bytes())["rows"]:
                if not row["refused"] and row["experts"] == row["of_experts"]:
                    times = self._times.setdefault((row["model"], row["dtype"], row["load"]), {})
                    point = (int(row["tokens"]), float(row["peer_median_ns"]))
                    times.setdefault(row["peer"], []).append(point)
        except (OSError, ValueError, KeyError, TypeError) as error:
            mend = "give a file that benchmarks/cpu_peers.py --out wrote"
            raise UsageError(f"{path}: no file of peers' times ({error!r}); {mend}") from error

    def of(self, problem: Problem, load: str) -> Times:
        """The times for a problem by its label; empty where the file has none."""
        name = problem.name.removesuffix(f"-{problem.dtype}")
        found = self._times.get((name, problem.dtype, load), {})
        return {peer: sorted(points) for peer, points in sorted(found.items())}
