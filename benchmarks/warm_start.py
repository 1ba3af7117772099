"""What a warm start saves: sessions with and without the winners of near token counts, on this machine.

The token counts ``--near`` are tuned first. Then, for each seed, the same cell is tuned twice from copies of
that database: once without looking at its winners, once starting from them. Counted are the
trials until a session's best ratio is within 2 % of the better best of the two; builds share one cache.

    python benchmarks/warm_start.py granite-3.0-1b-a400m --near 64,256 --tokens 128 --trials 30 --seeds 3
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from tuner.problem import Problem
from tuner.store.database import Database
from tuner.target import detect
from tuner.tune.plan import Plan, Progress
from tuner.tune.run import tune

NEAR_ENOUGH = 1.02


def session(problem: Problem, path: Path, plan: Plan) -> list[float]:
    """Runs a session; the best ratio to the default after each of its search's trials."""

    def report(progress: Progress) -> None:
        print(f"\r{progress.stage} {progress.trials} trials ", end="", file=sys.stderr, flush=True)

    with Database(path) as database:
        target = detect()
        tune(problem, target, database, plan, report)
        rows = database.trials(problem.digest, target.digest, plan.tokens[0], plan.loads[0])
    bests = [1.0]
    for row in rows:
        ratio = row.measurement.ratio if row.status == "ok" and row.measurement else None
        bests.append(min(bests[-1], ratio or bests[-1]))
    return bests[1 : 1 + (plan.trials or len(rows))]


def reached(bests: list[float], goal: float) -> int | None:
    """The number of the first trial whose best is near enough to the goal."""
    return next((n for n, best in enumerate(bests, 1) if best <= goal * NEAR_ENOUGH), None)


def pair(problem: Problem, arguments: argparse.Namespace, near: Path, seed: int) -> list[int]:
    """Trials of one seed without and with a warm start, printed as a row of the table."""
    bests = []
    for name, starts in (("cold", 0), ("warm", 6)):
        path = near.with_name(f"{name}-{seed}.sqlite3")
        shutil.copyfile(near, path)
        plan = Plan(
            (arguments.tokens,), (arguments.load,), arguments.trials, seed=seed, warm_starts=starts
        )
        bests.append(session(problem, path, plan))
    goal = min(row[-1] for row in bests)
    counts = [reached(row, goal) for row in bests]
    cells = [f"{seed:>4}"]
    for row, count in zip(bests, counts, strict=True):
        cells.append(f"{count or f'> {len(row)}':>12}  {1 / row[-1]:.3f}x")
    print(" ".join(cells), flush=True)
    return [count or arguments.trials + 1 for count in counts]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a preset")
    parser.add_argument("--near", default="64,256", help="token counts to tune first")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--load", default="uniform")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    problem = Problem.preset(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        near = Path(folder) / "near.sqlite3"
        counts = tuple(int(count) for count in arguments.near.split(","))
        session(problem, near, Plan(counts, (arguments.load,), arguments.trials, seed=99))
        print(
            "\nseed   cold trials    best   warm trials    best (to within 2 % of the better best)"
        )
        pairs = [pair(problem, arguments, near, seed) for seed in range(arguments.seeds)]
    cold, warm = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"median: {cold:g} trials cold, {warm:g} warm")


if __name__ == "__main__":
    main()
