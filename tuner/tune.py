"""Tune: a session that searches each workload and records its winners.

For each number of tokens: the template's default first, then what the search suggests, each built,
verified and raced against the default; at the end the finalists run interleaved with it, and only who
is surely faster wins. Every trial is stored when it ends, so the same command goes on where an
earlier one was stopped.
"""

from __future__ import annotations

import time
import uuid

from tuner import trial as trials
from tuner.ceilings import Ceilings
from tuner.cell import Cell
from tuner.database import Database
from tuner.plan import CellResult, Plan, Progress, Report
from tuner.problem import Problem
from tuner.target import Target
from tuner.variant import Variant
from tuner.worker import Worker
from tuner.workload import Workload

__all__ = ["CellResult", "Plan", "Progress", "Report", "Session", "tune"]

FINALS_S = 15.0


def tune(
    problem: Problem, target: Target, database: Database, plan: Plan, report: Report
) -> list[CellResult]:
    """Tunes a problem on this machine for each number of tokens of the plan, in its order.

    The packed form of the weights is chosen with the first workload and kept for the others (or
    taken from earlier winners): one layer holds one packed copy. Raises CompileError when the
    toolchain is missing, DatabaseError when nothing can be stored.
    """
    session = Session(problem, target, database, plan, report)
    with Worker(problem, target, plan.seed) as worker:
        return session.run(worker)


class Session:
    """State that the cells of one session share."""

    def __init__(
        self, problem: Problem, target: Target, database: Database, plan: Plan, report: Report
    ) -> None:
        self.problem, self.target, self.database = problem, target, database
        self.plan, self.report = plan, report
        self.id = uuid.uuid4().hex[:12]
        self.start = time.monotonic()
        self.keys = (database.add_problem(problem), database.add_target(target))
        self.pack: str | None = self._earlier_pack()
        self.promising: list[Variant] = []

    def _earlier_pack(self) -> str | None:
        rows = self.database.best(*self.keys)
        return str(rows[0]["pack"]) if rows else None

    def run(self, worker: Worker) -> list[CellResult]:
        self.ceilings: Ceilings = worker.ask("ceilings", timeout_s=trials.RACE_S)
        for limit in self.ceilings.rows():
            self.database.set_ceiling(self.keys[1], *limit)
        self.surroundings = trials.environment(self.target, self.ceilings)
        results = []
        for number, tokens in enumerate(self.plan.tokens):
            cell = Cell(self, worker, Workload(tokens, self.plan.load), number)
            results.append(cell.run())
        return results

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start

    def deadline(self, cell: int) -> float | None:
        """When this cell's search should end (seconds of the session): an equal part of what is left."""
        if self.plan.time_s is None:
            return None
        left = self.plan.time_s - self.elapsed_s
        return self.elapsed_s + left / (len(self.plan.tokens) - cell) - FINALS_S
