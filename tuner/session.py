"""Session: the state that the cells of one tuning session share."""

from __future__ import annotations

import time
import uuid

from tuner import trial as trials
from tuner.ceilings import Ceilings
from tuner.database import Database
from tuner.plan import Plan, Report
from tuner.problem import Problem
from tuner.target import Target
from tuner.variant import Variant
from tuner.worker import Worker

# Kept back of each cell's time for the finals.
FINALS_S = 20.0


class Session:
    """What is asked and known for all cells; measuring the ceilings is its first act."""

    def __init__(
        self,
        problem: Problem,
        target: Target,
        database: Database,
        plan: Plan,
        report: Report,
        worker: Worker,
    ) -> None:
        self.problem, self.target, self.database = problem, target, database
        self.plan, self.report, self.worker = plan, report, worker
        self.id = uuid.uuid4().hex[:12]
        self.start = time.monotonic()
        self.keys = (database.add_problem(problem), database.add_target(target))
        self.pack: str | None = self._earlier_pack()
        self.promising: list[Variant] = []
        self.ceilings: Ceilings = worker.ask("ceilings", timeout_s=trials.RACE_S)
        for limit in self.ceilings.rows():
            database.set_ceiling(self.keys[1], *limit)
        self.surroundings = trials.environment(target, self.ceilings)

    def _earlier_pack(self) -> str | None:
        rows = self.database.best(*self.keys)
        return str(rows[0]["pack"]) if rows else None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start

    def deadline(self, cell: int) -> float | None:
        """When this cell's search should end (seconds of the session): an equal part of what is left."""
        if self.plan.time_s is None:
            return None
        left = self.plan.time_s - self.elapsed_s
        return self.elapsed_s + left / (len(self.plan.tokens) - cell) - FINALS_S
