"""History: what the stages of earlier trials took, for the nearest problem that there is any of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.shipped import path as shipped_best
from tuner.target import Target


@dataclass(frozen=True)
class StageTimes:
    """What one variant takes in each stage, in seconds, and where that is known from.

    ``first_s`` is what the first verification of a process takes more than later ones: weights
    and right answers are made then.
    """

    compile_s: float
    verify_s: float
    benchmark_s: float
    first_s: float
    source: str


@dataclass(frozen=True)
class _Trial:
    """A trial that went through all stages; ``first``: the first of its session and problem."""

    problem_id: str
    dtype: str
    tokens: int
    first: bool
    compile_ms: float
    verify_ms: float
    benchmark_ms: float


# Fewer are no history: then one looks further away.
LEAST_TRIALS = 3

Fits = Callable[[_Trial, Problem, Workload], bool]

# Nearest first. The first verification of a process does not depend on the tokens that follow.
_RUNGS: tuple[tuple[str, Fits], ...] = (
    ("this problem", lambda t, problem, _: t.problem_id == problem.digest),
    ("{dtype} problems", lambda t, problem, _: t.dtype == problem.dtype),
    ("any problem", lambda t, problem, _: True),
)
_SAME_TOKENS: tuple[str, Fits] = (
    "this problem at T={tokens}",
    lambda t, problem, workload: t.problem_id == problem.digest and t.tokens == workload.tokens,
)


class History:
    """The trials of one target; where it has none, those behind the winners that moetune ships."""

    def __init__(self, db: Database, target: Target) -> None:
        self._trials = _complete(db.stage_times(target.digest))
        self._source = "{} on this machine"
        if not self._trials:
            self._trials, machines = _shipped()
            self._source = (
                "assumed, as this machine has no trials: {} behind the winners that moetune ships, "
                f"measured on {machines}"
            )

    def times(self, problem: Problem, workload: Workload) -> StageTimes:
        """Medians of the nearest trials; the source says which these are."""
        words, near = self._nearest((_SAME_TOKENS, *_RUNGS), problem, workload)
        _, around = self._nearest(_RUNGS, problem, workload)
        first_s = _median_s(t.verify_ms for t in around if t.first)
        later_s = _median_s(t.verify_ms for t in around if not t.first)
        later = [t for t in near if not t.first] or [t for t in around if not t.first] or near
        return StageTimes(
            compile_s=_median_s(t.compile_ms for t in near),
            verify_s=_median_s(t.verify_ms for t in later),
            benchmark_s=_median_s(t.benchmark_ms for t in near),
            first_s=max(0.0, first_s - later_s),
            source=self._source.format(f"medians of {len(near)} trials of {words}"),
        )

    def _nearest(
        self, rungs: Sequence[tuple[str, Fits]], problem: Problem, workload: Workload
    ) -> tuple[str, list[_Trial]]:
        """The first rung that has enough trials, else the last one: in words, and its trials."""
        near = (
            (words, [trial for trial in self._trials if fits(trial, problem, workload)])
            for words, fits in rungs
        )
        enough = (rung for rung in near if len(rung[1]) >= LEAST_TRIALS)
        words, found = next(enough, (rungs[-1][0], self._trials))
        return words.format(dtype=problem.dtype, tokens=workload.tokens), found


def _shipped() -> tuple[list[_Trial], str]:
    """The trials behind the winners that moetune brings, and where they were made."""
    with (
        tempfile.TemporaryDirectory(prefix="moetune-") as folder,
        Database(Path(folder) / "shipped.sqlite3") as shipped,
    ):
        import_best(shipped, shipped_best())
        cpus = [row for row in shipped.best() if row["target"]["kind"] == "cpu"]
        machines = {f"{row['target_name']} ({row['arch']})" for row in cpus}
        return _complete(shipped.stage_times()), " and ".join(sorted(machines))


def _complete(rows: Iterable[Mapping[str, Any]]) -> list[_Trial]:
    """Those that went through all stages; the rows come in the order in which they were recorded."""
    seen: set[tuple[str, str]] = set()
    trials = []
    for row in rows:
        if row["compile_ms"] and row["verify_ms"] and row["benchmark_ms"]:
            process = (row["session"], row["problem_id"])
            first = process not in seen
            seen.add(process)
            times = {name: row[name] for name in ("compile_ms", "verify_ms", "benchmark_ms")}
            dtype = row["problem"]["dtype"]
            trials.append(_Trial(row["problem_id"], dtype, row["tokens"], first, **times))
    return trials


def _median_s(milliseconds: Iterable[float]) -> float:
    """0 of none."""
    values = list(milliseconds)
    return median(values) / 1e3 if values else 0.0
