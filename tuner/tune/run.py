"""Tune: a session that searches the cells of a matrix of workloads and records what to ship.

The default of each cell first, then what the searches suggest, dealt over the cells, each built,
verified and raced against the cell's default; at the end the finalists of all cells meet in all cells,
and the few that lose least are kept. Every trial is stored when it ends, so the same command goes
on where an earlier one was stopped.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from tuner.host.lock import WAITING, turn
from tuner.measure.worker import Worker
from tuner.problem import Problem
from tuner.store.database import Database
from tuner.target import Target
from tuner.tune import contest, shortlist
from tuner.tune.builder import Builder, measuring_cores, split_cores
from tuner.tune.cell import Candidate, Cell
from tuner.tune.plan import Plan, Progress, Report
from tuner.tune.result import TuneResult
from tuner.tune.schedule import deal
from tuner.tune.session import Session
from tuner.tune.shortlist import best_by_pack

# The packed form is settled after this share of the budget, or so many trials a cell.
SETTLE_SHARE = 1 / 3
SETTLE_TRIALS = 12

Queue = deque[tuple[Cell, Candidate]]


def tune(
    problem: Problem, target: Target, database: Database, plan: Plan, report: Report
) -> TuneResult:
    """Tunes a problem on this machine for the workloads of the plan.

    A session whose target has fewer cores than this process may use builds on the others; one on a GPU keeps
    a core to launch its kernels from. Where another tuner works with the database, it waits for it. Raises
    CompileError when the toolchain is missing, DeviceError when the target's GPU is not here, DatabaseError
    when nothing can be stored.
    """
    cores = split_cores(measuring_cores(target))
    pinned = cores.measuring if cores.spare else None

    def bench(seed: int) -> Worker:
        return Worker(problem, target, seed, cores=pinned)

    def wait() -> None:
        report(_waiting(plan))

    with (
        turn(database.path, wait),
        tempfile.TemporaryDirectory(prefix="moetune-") as folder,
        Builder(problem, target, cores) as builder,
        bench(plan.seed) as worker,
    ):
        place = Path(folder)
        return run(Session(problem, target, database, plan, report, worker, bench, builder, place))


def _waiting(plan: Plan) -> Progress:
    """Nothing is done yet."""
    cells = plan.cells()
    return Progress(
        workload=cells[0][0],
        stage=WAITING,
        cell=0,
        cells=len(cells),
        trials=0,
        planned=None if plan.trials is None else plan.trials * len(cells),
        statuses={},
        best_ratio=None,
        elapsed_s=0.0,
        budget_s=plan.time_s,
        note="its time counts from its turn on",
    )


def run(session: Session) -> TuneResult:
    """Runs a session from its defaults to its winners."""
    cells = [Cell(session, *cell, i) for i, cell in enumerate(session.plan.cells())]
    session.cells = tuple(cells)
    for cell in cells:
        session.builder.submit(cell.default)
    for cell in cells:
        cell.begin()
    session.search_begins()
    _search(session, cells)
    if session.stopped.searching:  # that session had more time or trials
        session.learn_rest()
    pace = session.search_ends()
    if session.pack is None:
        _settle(session, cells)
    return contest.run(session, cells, pace)


def _search(session: Session, cells: Sequence[Cell]) -> None:
    """Deals trials over the cells until the budget is spent or every space is searched."""
    queue: Queue = deque()
    while True:
        if session.builder.ahead or not queue:
            if _settles(session, len(cells)):
                _settle(session, cells)
            _fill(session, cells, queue)
        if not queue:
            return
        cell, candidate = queue.popleft()
        session.follow(cell.number, candidate.variant.id)
        if session.is_spent():
            return
        if candidate.variant.id not in cell.judged:
            cell.judge(candidate)


def _fill(session: Session, cells: Sequence[Cell], queue: Queue) -> None:
    """Asks for a batch; its builds begin at once. Variants that read the same packed weights follow each
    other, as packing takes longer than a race."""

    def give(number: int) -> bool:
        candidate = cells[number].ask()
        if candidate is not None:
            queue.append((cells[number], candidate))
        return candidate is not None

    room = session.room()
    wanted = session.builder.batch - len(queue)
    if room is not None:
        wanted = min(wanted, room - len(queue))
    deal([cell.share for cell in cells], wanted, give)
    session.builder.start()
    ordered = sorted(queue, key=lambda entry: entry[1].variant.pack)
    queue.clear()
    queue.extend(ordered)


def _settles(session: Session, cells: int) -> bool:
    """Whether enough was tried to settle on one packed form: a layer keeps one copy of its weights."""
    enough = session.statuses.total() >= SETTLE_TRIALS * cells
    return session.pack is None and (enough or session.used() >= SETTLE_SHARE)


def _settle(session: Session, cells: Sequence[Cell]) -> None:
    """Settles on the packed form whose best variants have the least weighted mean ratio."""
    session.pack = settled_pack(cells)
    for cell in cells:
        cell.pin(session.pack)


def settled_pack(cells: Sequence[Cell]) -> str:
    """The packed form that is fastest over all cells; a form that a cell hasn't tried counts as its default
    there."""
    best = [
        best_by_pack(
            {id: tried.ratio for id, tried in cell.tried.items()},
            {id: tried.variant.pack for id, tried in cell.tried.items()},
        )
        for cell in cells
    ]
    weights = [cell.share.weight for cell in cells]
    return shortlist.settled_pack(best, weights, cells[0].default.pack, untried=1.0)
