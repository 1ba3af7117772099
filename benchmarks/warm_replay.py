"""What a warm start saves on a recorded grid: the trials that a search needs with and without stored winners.

    python benchmarks/warm_replay.py benchmarks/data/granite-float32-T128.t4.json.gz --winners db/best.jsonl

Winners of the grid's own cell are left out: what is told are those of other token counts and problems, as
`tuner.tune.warm_start` ranks them. Both searches have a random point in the default's place, and no starts:
compared is what the winners are worth to a search that knows nothing else. Nothing is compiled or timed.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.search import replay
from tuner.search.replay import Grid
from tuner.search.search import Search
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.target import Target
from tuner.tune import warm_start

WITHIN = (0.05, 0.02)
MOST_TRIALS = 40
MOST_STARTS = 6  # as Plan.warm_starts


@dataclasses.dataclass(frozen=True)
class Winners:
    """Stored winners but for those of the grid's own cell, and the request that ranks them."""

    rows: Sequence[Mapping[str, Any]]
    request: warm_start.Request


def near_winners(grid: Grid, path: Path) -> Winners:
    """What a session of the grid's cell would know, if that cell had no winner of its own."""
    about = grid.about
    problem, target = Problem.from_key(about["problem"]), Target.from_key(about["target"])
    workload = Workload(about["tokens"], about["load"])
    with tempfile.TemporaryDirectory() as folder, Database(Path(folder) / "db.sqlite3") as db:
        import_best(db, path)
        rows = [row for row in db.best() if not _is_own(row, problem, workload)]
    return Winners(rows, warm_start.Request(problem, target, workload, about["toolchain"]))


def _is_own(row: Mapping[str, Any], problem: Problem, workload: Workload) -> bool:
    return row["problem_id"] == problem.digest and row["tokens"] == workload.tokens


def needed(grid: Grid, seed: int, winners: Winners | None) -> list[float]:
    """The trials until a search is within each of WITHIN of the grid's best."""
    anywhere = random.Random(seed).choice(list(grid.space.points()))
    space = dataclasses.replace(grid.space, default=anywhere, starts=())
    search = Search(space, seed)
    if winners is not None:
        for config in warm_start.starts(winners.rows, winners.request, space, MOST_STARTS):
            search.enqueue(config)
    ratios = [step.answer.ratio for step in replay.run(grid, search, MOST_TRIALS)]
    return [replay.trials_to(grid, ratios, within) or MOST_TRIALS + 1 for within in WITHIN]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("grid", type=Path)
    parser.add_argument("--winners", type=Path, default=Path("db/best.jsonl"))
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args(arguments)
    grid = replay.load(options.grid)
    winners = near_winners(grid, options.winners)
    for name, told in (("cold", None), ("warm", winners)):
        rows = zip(*(needed(grid, seed, told) for seed in range(options.seeds)), strict=True)
        said = [
            f"{statistics.median(row):g} trials to {within:.0%} (worst seed {max(row):g})"
            for within, row in zip(WITHIN, rows, strict=True)
        ]
        print(f"{name}: {', '.join(said)}; {options.seeds} seeds", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
