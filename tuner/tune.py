"""Tune: a session that searches each workload and records its winners.

For each number of tokens: the template's default first, then what the search suggests, each built,
verified and raced against the default; at the end the finalists run interleaved with it, and only who
is surely faster wins. Every trial is stored when it ends, so the same command goes on where an
earlier one was stopped.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tuner import space as spaces
from tuner import trial as trials
from tuner.bench_state import Entrant, Timing
from tuner.benchmark import Effort
from tuner.ceilings import Ceilings
from tuner.database import Database
from tuner.errors import SpaceError, TemplateError
from tuner.problem import Problem
from tuner.records import TrialRow, WinnerRow
from tuner.render import render
from tuner.search import Search, Suggestion
from tuner.target import Target
from tuner.trial import Build, Outcome
from tuner.variant import Variant, default_variant, make, pack_config
from tuner.worker import Worker
from tuner.workload import Workload

TRIAL_EFFORT = Effort(budget_s=1.0)
DEFAULT_EFFORT = Effort(budget_s=1.5)
FINAL_EFFORT = Effort(budget_s=8.0, least_rounds=15, precision=0.003, hopeless=float("inf"))
FINALISTS = 3
FINALS_S = 15.0
# A gain below this is not told from noise: the default stays.
NOISE_FLOOR = 0.03
# Builds that run side by side; none runs while something is timed.
BUILDERS = 2


@dataclass(frozen=True)
class Plan:
    """What a session does: `trials` is per workload, `time_s` for the whole session."""

    tokens: tuple[int, ...]
    load: str = "uniform"
    trials: int | None = None
    time_s: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """Where a session stands; `best_ratio` is time of the incumbent / time of the default."""

    workload: Workload
    stage: str
    cell: int
    cells: int
    trials: int
    planned: int | None
    statuses: dict[str, int]
    best_ratio: float | None
    elapsed_s: float
    budget_s: float | None
    note: str


@dataclass(frozen=True)
class CellResult:
    """The outcome for one workload; `ratio` is the winner's time / the default's, paired."""

    workload: Workload
    default: str
    winner: str
    is_default: bool
    ratio: float
    ratio_low: float
    ratio_high: float
    median_ns: float
    default_median_ns: float
    gflop_s: float
    gb_s: float
    ceiling: str
    ceiling_fraction: float
    temperature: str
    statuses: dict[str, int]


Report = Callable[[Progress], None]


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


@dataclass
class _Tried:
    """A verified variant of one cell with its trial row and ratio."""

    variant: Variant
    trial_id: int
    ratio: float
    build: Build


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
        for name, value in (("fma", self.ceilings.fma_gflop_s), ("read", self.ceilings.read_gb_s)):
            unit = "GFLOP/s" if name == "fma" else "GB/s"
            self.database.set_ceiling(self.keys[1], name, value, unit)
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


class Cell:
    """The search for one workload."""

    def __init__(self, session: Session, worker: Worker, workload: Workload, number: int) -> None:
        self.session, self.worker, self.workload, self.number = session, worker, workload, number
        self.statuses: Counter[str] = Counter()
        self.tried: list[_Tried] = []
        problem, target = session.problem, session.target
        file = spaces.load("moe_cpu")
        self.space = spaces.resolve(file, problem, target, workload.tokens)
        self.default = default_variant(problem, target, tokens=workload.tokens)
        if session.pack:
            self.space = self.space.pin(pack_config(session.pack))
        self.search = Search(self.space, session.plan.seed)
        self.deadline = session.deadline(number)

    def run(self) -> CellResult:
        self._report("default", self.default.name)
        earlier = self._earlier()
        self.base = self._try_default(earlier)
        self._replay(earlier)
        for variant in self.session.promising:
            self.search.enqueue(variant.config)
        self.search.enqueue(self.space.default)
        while not self._exhausted() and (batch := self._ask()):
            self._try(batch)
        result = self._finals()
        self._report("done", result.winner)
        return result

    def _earlier(self) -> list[TrialRow]:
        """Trials of this workload whose source and compiler are still the same."""
        rows = self.session.database.trials(*self.session.keys, self.workload.tokens, self.workload.load)
        toolchain = self.session.surroundings["toolchain"]
        return [r for r in rows if r.environment.get("toolchain") == toolchain and self._is_current(r)]

    def _is_current(self, row: TrialRow) -> bool:
        try:
            variant = make(row.template, row.config)
        except SpaceError:  # the template's parameters changed since
            return False
        return render(self.session.problem, variant).digest == row.source_digest

    def _try_default(self, earlier: Iterable[TrialRow]) -> _Tried:
        built = trials.build(self.session.problem, self.session.target, self.default)
        for row in earlier:
            if row.variant_id == self.default.id and row.status == "ok":
                assert row.id is not None
                return self._keep(_Tried(self.default, row.id, 1.0, built), "ok")
        outcome = trials.evaluate(
            self.worker, built, self.default, None, self.workload, DEFAULT_EFFORT
        )
        if outcome.status != "ok":
            raise TemplateError(
                f"{self.default.name}: the template's default is {outcome.status}: {outcome.message}; "
                "`moetune doctor` tells whether the toolchain works"
            )
        trial_id = self._record(self.default, built, outcome)
        return self._keep(_Tried(self.default, trial_id, 1.0, built), "ok")

    def _keep(self, tried: _Tried, status: str) -> _Tried:
        self.statuses[status] += 1
        self.tried.append(tried)
        self.search.remember(tried.variant.config, tried.ratio)
        return tried

    def _replay(self, earlier: Iterable[TrialRow]) -> None:
        """Tells the search what earlier sessions found."""
        for row in earlier:
            if row.variant_id == self.default.id or row.id is None:
                continue
            ratio = row.measurement.ratio if row.measurement else None
            if row.status == "ok" and ratio is not None:
                variant = make(row.template, row.config)
                built = trials.build(self.session.problem, self.session.target, variant)
                self._keep(_Tried(variant, row.id, ratio, built), "ok")
            else:
                self.statuses[row.status] += 1
                self.search.remember(row.config, ratio)

    def _exhausted(self) -> bool:
        count = sum(self.statuses.values())
        if self.session.plan.trials is not None and count >= self.session.plan.trials:
            return True
        return self.deadline is not None and self.session.elapsed_s >= self.deadline

    def _ask(self) -> list[Suggestion]:
        wanted = min(BUILDERS, self.session.target.cores)
        if self.session.plan.trials is not None:
            wanted = min(wanted, self.session.plan.trials - sum(self.statuses.values()))
        asked = (self.search.ask() for _ in range(wanted))
        return [suggestion for suggestion in asked if suggestion is not None]

    def _try(self, batch: list[Suggestion]) -> None:
        """Builds a batch side by side, then verifies and times one after the other."""
        variants = [make(self.space.template, s.config) for s in batch]
        problem, target = self.session.problem, self.session.target
        with ThreadPoolExecutor(len(batch)) as pool:
            builds = list(pool.map(lambda v: trials.build(problem, target, v), variants))
        for suggestion, variant, built in zip(batch, variants, builds, strict=True):
            outcome = self._evaluate(variant, built)
            trial_id = self._record(variant, built, outcome)
            self.search.tell(suggestion, outcome.ratio)
            self.statuses[outcome.status] += 1
            if outcome.status == "ok" and outcome.ratio is not None:
                self.tried.append(_Tried(variant, trial_id, outcome.ratio, built))
            self._report("search", f"{variant.name} {outcome.status}")

    def _evaluate(self, variant: Variant, built: Build) -> Outcome:
        return trials.evaluate(
            self.worker, built, variant, self._entrant(self.base), self.workload, TRIAL_EFFORT
        )

    @staticmethod
    def _entrant(tried: _Tried) -> Entrant:
        assert tried.build.binary is not None
        return Entrant(tried.build.binary.path, tried.variant.pack)

    def _record(self, variant: Variant, built: Build, outcome: Outcome) -> int:
        session = self.session
        session.database.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        row = trials.row(
            variant, built, outcome, session.keys, self.workload, session.id, session.surroundings
        )
        measured = None
        if outcome.timing is not None:
            last = len(outcome.timing.race.times_ns) - 1
            measured = trials.measurement(
                outcome.timing, last, session.ceilings, session.target, session.problem
            )
        return session.database.record_trial(row, measured)

    def _finalists(self) -> list[_Tried]:
        """The default and the fastest others, of at most one other packed form."""
        others = [t for t in self.tried if t is not self.base]
        others.sort(key=lambda t: t.ratio)
        packs = {self.default.pack} | {t.variant.pack for t in others[:1]}
        return [self.base, *[t for t in others if t.variant.pack in packs][:FINALISTS]]

    def _finals(self) -> CellResult:
        finalists = self._finalists()
        self._report("finals", f"{len(finalists) - 1} against the default")
        timing: Timing = self.worker.ask(
            "race",
            [self._entrant(t) for t in finalists],
            self.workload,
            FINAL_EFFORT,
            timeout_s=trials.RACE_S,
        )
        winner = choose_winner(timing, [t.variant for t in finalists])
        session = self.session
        rows = [
            trials.measurement(timing, i, session.ceilings, session.target, session.problem, "final")
            for i in range(len(finalists))
        ]
        with session.database.transaction():
            for tried, row in zip(finalists, rows, strict=True):
                session.database.record_measurement(tried.trial_id, row)
            session.database.record_winner(self._winner_row(finalists, timing, winner))
        session.pack = session.pack or finalists[winner].variant.pack
        session.promising = [t.variant for t in finalists[1:]]
        measured = rows[winner]
        return CellResult(
            workload=self.workload,
            default=self.default.name,
            winner=finalists[winner].variant.name,
            is_default=winner == 0,
            ratio=measured.ratio or 1.0,
            ratio_low=measured.ratio_low or 1.0,
            ratio_high=measured.ratio_high or 1.0,
            median_ns=measured.median_ns,
            default_median_ns=rows[0].median_ns,
            gflop_s=measured.gflop_s or 0.0,
            gb_s=measured.gb_s or 0.0,
            ceiling=measured.ceiling,
            ceiling_fraction=measured.ceiling_fraction or 0.0,
            temperature=timing.temperature,
            statuses=dict(self.statuses),
        )

    def _winner_row(self, finalists: list[_Tried], timing: Timing, winner: int) -> WinnerRow:
        session, ratio = self.session, timing.race.ratio(winner)
        measured = trials.measurement(
            timing, winner, session.ceilings, session.target, session.problem, "final"
        )
        return WinnerRow(
            trial_id=finalists[winner].trial_id,
            default_trial_id=self.base.trial_id,
            problem_id=session.keys[0],
            target_id=session.keys[1],
            tokens=self.workload.tokens,
            load=self.workload.load,
            ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            is_default=winner == 0,
            median_ns=measured.median_ns,
            gflop_s=measured.gflop_s,
            gb_s=measured.gb_s,
            ceiling_fraction=measured.ceiling_fraction,
        )

    def _report(self, stage: str, note: str) -> None:
        session = self.session
        best = min((t.ratio for t in self.tried), default=None)
        session.report(
            Progress(
                workload=self.workload,
                stage=stage,
                cell=self.number,
                cells=len(session.plan.tokens),
                trials=sum(self.statuses.values()),
                planned=session.plan.trials,
                statuses=dict(self.statuses),
                best_ratio=best,
                elapsed_s=session.elapsed_s,
                budget_s=session.plan.time_s,
                note=note,
            )
        )


def choose_winner(timing: Timing, variants: list[Variant]) -> int:
    """Who wins the finals: 0, the default, unless another is surely faster by more than NOISE_FLOOR.

    Of those that can't be told from the fastest, the one that differs least from the default.
    """
    ratios = [timing.race.ratio(i) for i in range(len(variants))]
    better = [
        i for i, r in enumerate(ratios) if i > 0 and r.high < 1 and r.value <= 1 - NOISE_FLOOR
    ]
    if not better:
        return 0
    fastest = min(better, key=lambda i: ratios[i].value)
    ties = [i for i in better if timing.race.ratio(i, fastest).low <= 1]
    return min(ties, key=lambda i: (_distance(variants[i], variants[0]), ratios[i].value))


def _distance(variant: Variant, default: Variant) -> int:
    """How many parameters differ."""
    return sum(a != b for a, b in zip(variant.values, default.values, strict=True))
