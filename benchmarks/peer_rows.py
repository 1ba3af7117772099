"""Rows of a side by side in a JSON file that is rewritten after each workload."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from tuner.errors import UsageError
from tuner.host.interference import FOREIGN_LIMIT
from tuner.peers.compare import PeerRow

About: TypeAlias = dict[str, str]
# model, dtype, load, tokens, peer
Key: TypeAlias = tuple[str, str, str, int, str]


@dataclass(frozen=True)
class Row:
    """One peer at one workload of one model, of whose `of_experts` only `experts` were there.

    `run` is the index of the run that measured it among the file's.
    """

    model: str
    dtype: str
    experts: int
    of_experts: int
    run: int
    peer: PeerRow

    @property
    def key(self) -> Key:
        return (self.model, self.dtype, self.peer.load, self.peer.tokens, self.peer.peer)

    @property
    def label(self) -> str:
        """The model as people read it."""
        if self.experts == self.of_experts:
            return self.model
        return f"{self.model} ({self.experts} of {self.of_experts} experts)"

    @property
    def disturbed(self) -> bool:
        """Whether other processes ran meanwhile, so that the numbers mean little."""
        return self.peer.foreign > FOREIGN_LIMIT


class RowsFile:
    """The rows by key, in the order in which they were first wanted; with no path in memory alone.

    Raises:
        UsageError: the file is not one of these.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.runs: list[About] = []
        self._rows: dict[Key, Row] = {}
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            told = json.loads(path.read_text())
            self.runs = told["runs"]
            rows = [_row(fields_of) for fields_of in told["rows"]]
        except (ValueError, KeyError, TypeError) as error:
            mend = "give another name, or move it away"
            raise UsageError(f"{path}: not a file of rows ({error!r}); {mend}") from None
        self._rows = {row.key: row for row in rows}

    @property
    def rows(self) -> Sequence[Row]:
        return tuple(self._rows.values())

    def start(self, about: About) -> int:
        """The index of a new run, for its rows."""
        self.runs.append(about)
        return len(self.runs) - 1

    def holds(self, key: Key) -> bool:
        """Whether there is such a row and it need not be measured again."""
        return key in self._rows and not self._rows[key].disturbed

    def experts(self, model: str, dtype: str) -> int:
        """How many experts the rows of a model were measured with; 0 without rows."""
        found = [r.experts for r in self.rows if (r.model, r.dtype) == (model, dtype)]
        return found[-1] if found else 0

    def add(self, rows: Iterable[Row]) -> None:
        """Adds or replaces rows, and writes the file."""
        self._rows |= {row.key: row for row in rows}
        if self.path is None:
            return
        told = {"runs": self.runs, "rows": [_told(row) for row in self.rows]}
        written = self.path.with_name(self.path.name + ".part")
        written.write_text(json.dumps(told, indent=1) + "\n")
        os.replace(written, self.path)


def _told(row: Row) -> dict[str, Any]:
    told = asdict(row)
    return told | told.pop("peer")


def _row(told: Mapping[str, Any]) -> Row:
    # Files of before a field was kept lack it; one without a default has always been there.
    names = [f.name for f in fields(PeerRow) if f.name in told or f.default is MISSING]
    peer = PeerRow(**{name: told[name] for name in names})
    own = {f.name: told[f.name] for f in fields(Row) if f.name != "peer"}
    return Row(peer=peer, **own)
