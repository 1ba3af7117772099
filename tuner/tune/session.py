"""Session: the state that the cells of one tuning session share."""

from __future__ import annotations

import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tuner.measure import trial as trials
from tuner.measure.bench import Entrant
from tuner.measure.trial import Build, Outcome
from tuner.measure.worker import BenchProcess
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.space import Config, Space
from tuner.space.variant import Variant
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target
from tuner.tune import warm_start
from tuner.tune.arms import readable
from tuner.tune.builder import Builder
from tuner.tune.plan import Plan, Progress, Report
from tuner.tune.result import Pace
from tuner.tune.resume import Stopped

# Kept back for the finals: for the session and for each cell, but at most a third of the time.
FINALS_S = 10.0
CELL_FINALS_S = 12.0
# Weights, tokens and routing of a process that checks are others than the session's: cases and inputs
# count up from a seed, so it is far away.
OTHER_SEED = 1_000_003


class Taker(Protocol):
    """Who is told what another cell or an earlier session found; ``tuner.tune.cell.Cell`` is one."""

    def offer(self, variant: Variant) -> None: ...

    def learn(self, row: TrialRow) -> None: ...


class Session:
    """What is asked and known for all cells; measuring the ceilings is its first act."""

    def __init__(
        self,
        problem: Problem,
        target: Target,
        database: Database,
        plan: Plan,
        report: Report,
        worker: BenchProcess,
        bench: Callable[[int], BenchProcess],
        builder: Builder,
        folder: Path,
    ) -> None:
        """`worker` measures; `bench(seed)` makes another such process. Copies of binaries go into
        `folder`."""
        self.problem, self.target, self.database = problem, target, database
        self.plan, self.builder, self.worker = plan, builder, worker
        self._report, self._bench, self._folder = report, bench, folder
        self.id = uuid.uuid4().hex[:12]
        self.start = time.monotonic()
        self.keys = (database.add_problem(problem), database.add_target(target))
        self.pack: str | None = self._earlier_pack()
        self.cells: Sequence[Taker] = ()
        self.stopped = Stopped()
        self.last_trial = 0
        self.statuses: Counter[str] = Counter()
        self.judged = 0
        self.verify_s = self.race_s = 0.0
        self._search_start: tuple[float, int, float] | None = None
        self._pace: Pace | None = None
        self.ceilings = self.worker.ceilings()
        for limit in self.ceilings.rows():
            database.set_ceiling(self.keys[1], *limit)
        self.surroundings = trials.environment(target, self.ceilings)

    def _earlier_pack(self) -> str | None:
        rows = self.database.best(*self.keys)
        pack = str(rows[0]["pack"]) if rows else None
        usable = readable(pack, self.problem, self.target, self.plan.template)
        return pack if usable else None

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.start

    @property
    def planned(self) -> int | None:
        """Trials of all cells."""
        plan = self.plan
        return None if plan.trials is None else plan.trials * len(plan.cells())

    def finals_s(self) -> float | None:
        """What is kept back for the finals."""
        if self.plan.time_s is None:
            return None
        return min(self.plan.time_s / 3, FINALS_S + CELL_FINALS_S * len(self.plan.cells()))

    def used(self) -> float:
        """The share of the search's budget that is spent, by trials or time, whichever is more."""
        shares = [0.0]
        if self.planned is not None:
            shares.append(self.statuses.total() / self.planned)
        kept = self.finals_s()
        if self.plan.time_s is not None and kept is not None:
            shares.append(self.elapsed_s / (self.plan.time_s - kept))
        return max(shares)

    def room(self) -> int | None:
        """How many more trials may be asked for; None: any number."""
        if self.used() >= 1:
            return 0
        return None if self.planned is None else self.planned - self.statuses.total()

    def is_spent(self) -> bool:
        """Whether all trials of the plan are made."""
        return self.planned is not None and self.statuses.total() >= self.planned

    def count(self, outcome: Outcome) -> None:
        """Notes one more verdict, and what it took."""
        self.judged += 1
        self.verify_s += (outcome.verify_ms or 0.0) / 1e3
        self.race_s += (outcome.benchmark_ms or 0.0) / 1e3

    def search_begins(self) -> None:
        """The pace counts from here."""
        self._search_start = (time.monotonic(), self.builder.compiled, self.builder.waited_s)
        self.judged, self.verify_s, self.race_s = 0, 0.0, 0.0

    def search_ends(self) -> Pace:
        """The pace counts to here."""
        self._pace = self.pace()
        return self._pace

    def pace(self) -> Pace:
        """Where the time of the search went so far, or in all."""
        if self._pace is not None:
            return self._pace
        start = self._search_start or (time.monotonic(), self.builder.compiled, 0.0)
        return Pace(
            judged=self.judged,
            compiled=self.builder.compiled - start[1],
            build_s=self.builder.waited_s - start[2],
            verify_s=self.verify_s,
            race_s=self.race_s,
            search_s=time.monotonic() - start[0],
        )

    def twin(self, variant: Variant) -> Entrant:
        """The sentinel: a copy of a variant's binary, which loads as a library of its own."""
        built = self.builder.get(variant)
        assert built.binary is not None
        copy = self._folder / f"twin-{built.binary.key}.so"
        if not copy.exists():
            shutil.copyfile(built.binary.path, copy)
        return Entrant.of(variant, copy)

    def other_process(self) -> BenchProcess:
        """A fresh measuring process on other weights, tokens and routing."""
        return self._bench(self.plan.seed + OTHER_SEED)

    def confirm(
        self, built: Build, variant: Variant, base: Entrant, workload: Workload, first: Outcome
    ) -> Outcome:
        """Verifies and times again what was too good to be believed, in a fresh process and on other
        weights, tokens and routing; that outcome is the one that counts."""
        self.worker.stop()  # there may be no memory for two copies of the weights
        other = self.other_process()
        try:
            again = trials.evaluate(
                other, built, variant, base, workload, trials.CONFIRM_EFFORT, self.plan.temperature
            )
        finally:
            other.stop()
        again.environment["doubted_ratio"] = round(first.ratio or 0.0, 4)
        if again.status == "wrong":
            again.message = f"on other inputs: {again.message}"
        return again

    def warm_starts(self, workload: Workload, space: Space) -> list[Config]:
        """What won on near problems, token counts and machines, as configurations of this space."""
        compiler = self.surroundings["toolchain"]
        request = warm_start.Request(self.problem, self.target, workload, compiler)
        return warm_start.starts(self.database.best(), request, space, self.plan.warm_starts)

    def saw(self, trial_id: int | None) -> None:
        """Notes the last trial that this session knows of."""
        self.last_trial = max(self.last_trial, trial_id or 0)

    def follow(self, cell: int, variant_id: str) -> None:
        """Follows a stopped session to its next trial; where that is another one than this, it went
        another way, and the cells learn the rest."""
        if not self.stopped.is_next(cell, variant_id):
            self.learn_rest()

    def learn_rest(self) -> None:
        """What is left of a stopped session is known to the cells from now on."""
        for cell, row in self.stopped.rest():
            self.cells[cell].learn(row)

    def offer(self, variant: Variant, by: int) -> None:
        """A cell's new best is a candidate for the others."""
        for number, cell in enumerate(self.cells):
            if number != by:
                cell.offer(variant)

    def report(
        self, stage: str, note: str, workload: Workload, cell: int, best: float | None
    ) -> None:
        """Tells where the session stands."""
        pace = self.pace()
        self._report(
            Progress(
                workload=workload,
                stage=stage,
                cell=cell,
                cells=len(self.plan.cells()),
                trials=self.statuses.total(),
                planned=self.planned,
                statuses=dict(self.statuses),
                best_ratio=best,
                elapsed_s=self.elapsed_s,
                budget_s=self.plan.time_s,
                note=note,
                per_minute=pace.per_minute if pace.compiled else None,
            )
        )
