"""For a layer: a session that `tuner.load(..., tune=...)` asks for, as a program of its own.

    python -m tuner.tune.for_layer '{"problem": KEY, "name": "", "target": KEY, "db": PATH, "tokens": [16],
                                     "load": "uniform", "time_s": 60}'

What it finds is in the database when it ends. It prints nothing, but in a line to stderr why it found nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tuner.errors import MoetuneError, WorkerError
from tuner.host import json_text
from tuner.host.lock import turn
from tuner.host.terminal import one_line
from tuner.host.toolchain import require_linker, toolchain_version
from tuner.measure.cpu_bench import MOST_PACKED
from tuner.problem import Problem, footprint
from tuner.store.database import Database
from tuner.target import Target
from tuner.tune.plan import Plan
from tuner.tune.run import tune


def main(text: str) -> int:
    """The exit code: 0, or that of the error."""
    try:
        _tune(json_text.parse(text))
    except MoetuneError as error:
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code
    return 0


def _tune(asked: dict[str, Any]) -> None:
    problem = Problem.from_key(asked["problem"], asked["name"])
    toolchain_version()  # where either is missing, a session would go as far as the cache does
    require_linker()
    _check_memory(problem)
    target, load = Target.from_key(asked["target"]), asked["load"]
    with Database(asked["db"]) as database:
        found = set()
        if _another_tuned(database.path):
            winners = database.best(problem_id=problem.digest, target_id=target.digest)
            found = {row["tokens"] for row in winners if row["load"] == load}
        if counts := tuple(count for count in asked["tokens"] if count not in found):
            plan = Plan(counts, (load,), time_s=asked["time_s"])
            tune(problem, target, database, plan, lambda progress: None)


def _another_tuned(database: Path) -> bool:
    """Waits for the turn of this process; whether another tuner was at work until then. It may have been the
    session of the same layer in another process."""
    waited: list[bool] = []
    with turn(database, lambda: waited.append(True)):
        return bool(waited)


def _check_memory(problem: Problem) -> None:
    """A system without memory would end a process, perhaps the one that has the layer."""
    need = (1 + MOST_PACKED) * footprint.weights_bytes(problem)
    have = footprint.available_bytes()
    if need > have:
        raise WorkerError(
            f"tuning needs {need / 2**30:.1f} GiB of memory for copies of the weights, "
            f"{have / 2**30:.1f} GiB are free; tune where there is more"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
