"""Cell: the search for one workload of a session, from the default to the recorded winner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tuner import space as spaces
from tuner import trial as trials
from tuner.bench_state import Entrant, Timing, is_cold
from tuner.benchmark import Effort
from tuner.errors import SpaceError, TemplateError
from tuner.failure import kind
from tuner.finals import choose_winner, joined
from tuner.plan import CellResult, Progress
from tuner.records import MeasurementRow, TrialRow, WinnerRow
from tuner.render import render
from tuner.search import Search, Suggestion
from tuner.session import Session
from tuner.trial import Build, Outcome
from tuner.variant import CPU_TEMPLATE, Variant, default_variant, make, pack_config
from tuner.workload import Workload

TRIAL_EFFORT = Effort(budget_s=1.0)
DEFAULT_EFFORT = Effort(budget_s=1.5)
FINAL_EFFORT = Effort(budget_s=4.0, least_rounds=15, precision=0.003, hopeless=float("inf"))
FINALISTS = 3
FINAL_PROCESSES = 2
# Builds that run side by side; none runs while something is timed.
BUILDERS = 2


@dataclass
class Tried:
    """A verified variant of one cell with its trial row and ratio."""

    variant: Variant
    trial_id: int
    ratio: float
    build: Build


class Cell:
    """The search for one workload."""

    def __init__(self, session: Session, workload: Workload, number: int) -> None:
        self.session, self.workload, self.number = session, workload, number
        self.worker = session.worker
        self.statuses: Counter[str] = Counter()
        self.tried: list[Tried] = []
        problem, target = session.problem, session.target
        file = spaces.load(CPU_TEMPLATE)
        self.space = spaces.resolve(file, problem, target, workload.tokens)
        self.default = default_variant(problem, target, tokens=workload.tokens)
        if session.pack:
            self.space = self.space.pin(pack_config(session.pack))
        plan = session.plan
        self.search = Search(self.space, plan.seed, plan.sampler, plan.trials)
        self.deadline = session.deadline(number)

    def run(self) -> CellResult:
        self._report("default", self.default.name)
        earlier = self._earlier()
        self.base = self._try_default(earlier)
        self._replay(earlier)
        for variant in self.session.promising:
            self.search.enqueue(variant.config)
        while not self._exhausted() and (batch := self._ask()):
            self._try(batch)
        result = self._finals()
        self._report("done", result.winner)
        return result

    def _earlier(self) -> list[TrialRow]:
        """Trials of this workload whose source, compiler and temperature are still the same."""
        rows = self.session.database.trials(
            *self.session.keys, self.workload.tokens, self.workload.load
        )
        return [row for row in rows if self._is_current(row)]

    def _is_current(self, row: TrialRow) -> bool:
        if row.environment.get("toolchain") != self.session.surroundings["toolchain"]:
            return False
        cold = is_cold(self.workload, self.session.plan.temperature)
        if row.measurement and row.measurement.temperature != ("cold" if cold else "warm"):
            return False
        try:
            variant = make(row.template, row.config)
        except SpaceError:  # the template's parameters changed since
            return False
        return render(self.session.problem, variant).digest == row.source_digest

    def _try_default(self, earlier: Iterable[TrialRow]) -> Tried:
        built = trials.build(self.session.problem, self.session.target, self.default)
        for row in earlier:
            if row.variant_id == self.default.id and row.status == "ok":
                assert row.id is not None
                return self._keep(Tried(self.default, row.id, 1.0, built), "ok")
        outcome = trials.evaluate(
            self.worker,
            built,
            self.default,
            None,
            self.workload,
            DEFAULT_EFFORT,
            self.session.plan.temperature,
        )
        if outcome.status != "ok":
            raise TemplateError(
                f"{self.default.name}: the template's default is {outcome.status}: {outcome.message}; "
                "`moetune doctor` tells whether the toolchain works"
            )
        trial_id = self._record(self.default, built, outcome)
        return self._keep(Tried(self.default, trial_id, 1.0, built), "ok")

    def _keep(self, tried: Tried, status: str) -> Tried:
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
                self._keep(Tried(variant, row.id, ratio, built), "ok")
            else:
                self.statuses[row.status] += 1
                self.search.remember(row.config, ratio, kind(row.status, row.message))

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
            failure = kind(outcome.status, outcome.message)
            self.search.tell(suggestion, outcome.ratio, failure)
            self.statuses[outcome.status] += 1
            if outcome.status == "ok" and outcome.ratio is not None:
                self.tried.append(Tried(variant, trial_id, outcome.ratio, built))
            self._report("search", f"{variant.name} {outcome.status}")

    def _evaluate(self, variant: Variant, built: Build) -> Outcome:
        return trials.evaluate(
            self.worker,
            built,
            variant,
            self._entrant(self.base),
            self.workload,
            TRIAL_EFFORT,
            self.session.plan.temperature,
        )

    @staticmethod
    def _entrant(tried: Tried) -> Entrant:
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
            measured = self._measured(
                outcome.timing, len(outcome.timing.race.times_ns) - 1, "trial"
            )
        return session.database.record_trial(row, measured)

    def _finalists(self) -> list[Tried]:
        """The default and the fastest others, of at most one other packed form."""
        others = [t for t in self.tried if t is not self.base]
        others.sort(key=lambda t: t.ratio)
        packs = {self.default.pack} | {t.variant.pack for t in others[:1]}
        return [self.base, *[t for t in others if t.variant.pack in packs][:FINALISTS]]

    def _finals(self) -> CellResult:
        finalists = self._finalists()
        self._report("finals", f"{len(finalists) - 1} against the default")
        parts = [self._final_race(finalists) for _ in range(FINAL_PROCESSES)]
        winner = choose_winner(parts, [t.variant for t in finalists])
        timing = joined(parts)
        session = self.session
        rows = [self._measured(timing, i, "final") for i in range(len(finalists))]
        with session.database.transaction():
            for tried, row in zip(finalists, rows, strict=True):
                session.database.record_measurement(tried.trial_id, row)
            session.database.record_winner(self._winner_row(finalists[winner], rows[winner]))
        session.pack = session.pack or finalists[winner].variant.pack
        session.promising = [t.variant for t in finalists[1:]]
        return self._result(finalists[winner], rows[winner], rows[0])

    def _final_race(self, finalists: list[Tried]) -> Timing:
        """One race in a process of its own: where threads and pages happen to lie differs each time."""
        self.worker.stop()
        timing: Timing = self.worker.ask(
            "race",
            [self._entrant(t) for t in finalists],
            self.workload,
            FINAL_EFFORT,
            self.session.plan.temperature,
            timeout_s=trials.RACE_S,
        )
        return timing

    def _measured(self, timing: Timing, kernel: int, kind: str) -> MeasurementRow:
        session = self.session
        return trials.measurement(
            timing, kernel, session.ceilings, session.target, session.problem, kind
        )

    def _result(self, winner: Tried, measured: MeasurementRow, base: MeasurementRow) -> CellResult:
        return CellResult(
            workload=self.workload,
            default=self.default.name,
            winner=winner.variant.name,
            is_default=winner is self.base,
            ratio=measured.ratio or 1.0,
            ratio_low=measured.ratio_low or 1.0,
            ratio_high=measured.ratio_high or 1.0,
            median_ns=measured.median_ns,
            default_median_ns=base.median_ns,
            gflop_s=measured.gflop_s or 0.0,
            gb_s=measured.gb_s or 0.0,
            ceiling=measured.ceiling,
            ceiling_fraction=measured.ceiling_fraction or 0.0,
            temperature=measured.temperature,
            statuses=dict(self.statuses),
        )

    def _winner_row(self, winner: Tried, measured: MeasurementRow) -> WinnerRow:
        return WinnerRow(
            trial_id=winner.trial_id,
            default_trial_id=self.base.trial_id,
            problem_id=self.session.keys[0],
            target_id=self.session.keys[1],
            tokens=self.workload.tokens,
            load=self.workload.load,
            ratio=measured.ratio or 1.0,
            ratio_low=measured.ratio_low or 1.0,
            ratio_high=measured.ratio_high or 1.0,
            is_default=winner is self.base,
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
