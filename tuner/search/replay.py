"""Replay: a recorded grid that answers for the compiler and the clock, and a search driven by it.

A grid is a T4 file whose `metadata.moetune` holds the space. Searches of hundreds of
trials take milliseconds, so samplers can be compared over many seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.errors import DatabaseError
from tuner.space.failure import kind
from tuner.space.neighbours import key
from tuner.space.space import Config, Space
from tuner.store import t4

if TYPE_CHECKING:
    from tuner.search.search import Search  # it brings the search's engine, which takes a moment

Key = tuple[int, ...]


@dataclass(frozen=True)
class RecordedTrial:
    """What became of a configuration; without a time, `ratio` and `time_ms` are None.

    `ratio` is the time over the default's, of the same race.
    """

    status: str
    ratio: float | None = None
    time_ms: float | None = None
    message: str = ""

    @property
    def failure(self) -> str:
        """The kind of failure; empty where there is a time."""
        return kind(self.status, self.message)


@dataclass(frozen=True)
class Grid:
    """Answers for the valid points of a space; `about` says what was measured, where and when."""

    space: Space
    answers: Mapping[Key, RecordedTrial]
    about: Mapping[str, Any]

    def answer(self, config: Mapping[str, int]) -> RecordedTrial:
        """The recorded answer. Raises DatabaseError for a configuration that was not recorded."""
        found = self.answers.get(key(self.space, config))
        if found is None:
            raise DatabaseError(f"{dict(config)}: is not in the recorded grid; record it in full")
        return found

    @functools.cached_property
    def best(self) -> float:
        """The least ratio of all answers."""
        return min(a.ratio for a in self.answers.values() if a.ratio is not None)

    @functools.cached_property
    def missing(self) -> tuple[Config, ...]:
        """Valid points without an answer: a search that meets one cannot go on."""
        return tuple(c for c in self.space.points() if key(self.space, c) not in self.answers)


@dataclass(frozen=True)
class Step:
    """One trial of a replayed search."""

    config: Config
    answer: RecordedTrial


def load(path: Path) -> Grid:
    """Reads a recorded grid. Raises DatabaseError where the file is none, or holds no space."""
    content = t4.read(path)
    about = content.get("metadata", {}).get("moetune", {})
    if not about.get("space"):
        raise DatabaseError(f"{path}: holds no space; record a grid with benchmarks/record_grid.py")
    space = Space.from_json(about["space"])
    answers = {key(space, row["configuration"]): _answer(row) for row in content["results"]}
    if all(answer.ratio is None for answer in answers.values()):
        raise DatabaseError(f"{path}: no configuration has a time; record the grid again")
    return Grid(space, answers, about)


def _answer(row: Mapping[str, Any]) -> RecordedTrial:
    measured = {m["name"]: m["value"] for m in row["measurements"]}
    message = row.get("message", "")
    return RecordedTrial(row["status"], measured.get("ratio"), measured.get(t4.OBJECTIVE), message)


def run(grid: Grid, search: Search, trials: int) -> list[Step]:
    """Drives a search with a grid for answers, one trial after the other; ends when it has no more to ask."""
    steps: list[Step] = []
    while len(steps) < trials and (suggestion := search.ask()) is not None:
        answer = grid.answer(suggestion.config)
        search.tell(suggestion, answer.ratio, answer.failure)
        steps.append(Step(suggestion.config, answer))
    return steps


def trials_to(grid: Grid, ratios: Iterable[float | None], within: float = 0.05) -> int | None:
    """The number of the first trial whose ratio is at most (1 + within) of the grid's best; None: never."""
    bound = grid.best * (1 + within)
    for number, ratio in enumerate(ratios, start=1):
        if ratio is not None and ratio <= bound:
            return number
    return None
