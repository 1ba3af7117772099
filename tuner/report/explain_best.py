"""Explain what would be selected: trials of the database, else the winner that moetune brings."""

from __future__ import annotations

import dataclasses

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report.explain import Explanation, explain
from tuner.select.select import Found, choose
from tuner.select.winner_cache import grouped, shipped_winners
from tuner.store import shipped
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.reading import temporary
from tuner.target import Target


def explain_best(problem: Problem, workload: Workload, target: Target, db: Database) -> Explanation:
    """What is known of this workload on this target: `explain` of the database, or of the winner that ships.

    Raises DatabaseError where the database has no trial of it and no winner that ships would serve.
    """
    there = db.trials(problem.digest, target.digest, workload.tokens, workload.load)
    found = None if there else _brought(problem, workload, target, db)
    if found is None:
        return explain(problem, workload, target, db)
    measured = Workload(found.row["tokens"], found.group.load)
    with temporary() as brought:
        import_best(brought, shipped.path())
        told = explain(problem, measured, found.group.target, brought)
    return dataclasses.replace(told, source=found.source, reason=found.reason)


def _brought(problem: Problem, workload: Workload, target: Target, db: Database) -> Found | None:
    """The winner that ships, where that is what would be selected."""
    groups = (*grouped(db.best(problem.digest)), *shipped_winners(problem))
    found = choose(problem, workload, target, groups)
    return found if isinstance(found, Found) and found.group.shipped else None
