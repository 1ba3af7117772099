"""Tune: a session that searches each workload and records its winners.

For each number of tokens: the template's default first, then what the search suggests, each built,
verified and raced against the default; at the end the finalists run interleaved with it, and only who
is surely faster wins. Every trial is stored when it ends, so the same command goes on where an
earlier one was stopped.
"""

from __future__ import annotations

from tuner.cell import Cell
from tuner.database import Database
from tuner.plan import CellResult, Plan, Progress, Report
from tuner.problem import Problem
from tuner.session import Session
from tuner.target import Target
from tuner.worker import Worker
from tuner.workload import Workload

__all__ = ["CellResult", "Plan", "Progress", "Report", "tune"]


def tune(
    problem: Problem, target: Target, database: Database, plan: Plan, report: Report
) -> list[CellResult]:
    """Tunes a problem on this machine for each number of tokens of the plan, in its order.

    The packed form of the weights is chosen with the first workload and kept for the others (or
    taken from earlier winners): one layer holds one packed copy. Raises CompileError when the
    toolchain is missing, DatabaseError when nothing can be stored.
    """
    with Worker(problem, target, plan.seed) as worker:
        session = Session(problem, target, database, plan, report, worker)
        workloads = [Workload(tokens, plan.load) for tokens in plan.tokens]
        return [Cell(session, workload, i).run() for i, workload in enumerate(workloads)]
