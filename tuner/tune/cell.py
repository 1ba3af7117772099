"""Cell: the search for one workload of a session, from the default to its finalists."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tuner.errors import TemplateError
from tuner.measure import trial as trials
from tuner.measure.bench import Entrant, Timing, is_cold
from tuner.measure.metrics import measurement
from tuner.measure.race import SLOW, TRIAL_EFFORT, Effort
from tuner.measure.trial import Build, Outcome
from tuner.problem.workload import Workload
from tuner.search.search import Search, Suggestion
from tuner.space.failure import kind
from tuner.space.space import Config
from tuner.space.variant import Variant, make
from tuner.store.records import Environment, MeasurementRow, TrialRow
from tuner.tune import resume
from tuner.tune.arms import Arm, Arms, Told
from tuner.tune.schedule import Share
from tuner.tune.session import Session
from tuner.tune.verdicts import floor_of

DEFAULT_EFFORT = Effort(budget_s=1.5)
# Finalists of other cells: enough to rank them here.
VISITOR_EFFORT = Effort(budget_s=0.5, reach=SLOW)
# A time this far below the best one so far is doubted, and so is one above the ceiling.
DOUBTED_RATIO = 0.75
DOUBTED_FRACTION = 1.05
NO_NOTES = Environment()


@dataclass(frozen=True)
class Tried:
    """A verified variant of one cell: its trial's row, and its ratio to the default with the interval."""

    variant: Variant
    trial_id: int
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """A variant on its way to a verdict, and who suggested it."""

    variant: Variant
    suggestion: Suggestion
    search: Search


class Cell:
    """The search for one workload."""

    def __init__(self, session: Session, workload: Workload, weight: float, number: int) -> None:
        self.session, self.workload, self.number = session, workload, number
        self.statuses: Counter[str] = Counter()
        self.tried: dict[str, Tried] = {}
        self.judged: set[str] = set()
        self.told: list[Told] = []
        self.share = Share(weight)
        self.floor = session.plan.noise_floor or 0.0
        self.foreign: list[float] = []
        seed = session.plan.seed + number
        self.arms = Arms(session.problem, session.target, workload, session.plan, seed)
        self.default = self.arms.default

    def begin(self) -> None:
        """Measures the default against its copy, and takes up what earlier sessions found."""
        self.report("default", self.default.name)
        rows = self._earlier()
        self._try_default(rows)
        self._take_up_earlier(rows)
        self.pin(self.session.pack)

    def pin(self, pack: str | None) -> None:
        """Searches on among the variants of one packed form; what was tried there is known."""
        self.arms.pin(pack, self.told)
        for arm in self.arms:
            for config in self.session.warm_starts(self.workload, arm.space):
                arm.search.enqueue(config)

    @property
    def incumbent(self) -> Tried:
        """The fastest so far; the default to begin with."""
        return min(self.tried.values(), key=lambda t: t.ratio)

    @property
    def base(self) -> Tried:
        """The default."""
        return self.tried[self.default.id]

    def _earlier(self) -> list[TrialRow]:
        """Trials of this workload whose source, compiler and temperature are still the same."""
        session = self.session
        rows = session.database.trials(*session.keys, self.workload.tokens, self.workload.load)
        toolchain = session.surroundings["toolchain"]
        cold = is_cold(self.workload, session.plan.temperature, session.target.kind)
        return [
            row
            for row in rows
            if resume.is_to(row, self.default)
            and resume.is_current(row, session.problem, toolchain, cold)
            and (self.arms.get(row.template) or not session.plan.template)
        ]

    def _try_default(self, rows: Iterable[TrialRow]) -> None:
        """Races the default with a copy of itself: its time, and the noise of this cell."""
        session = self.session
        built = session.builder.get(self.default)
        outcome = Outcome(built.status, built.message)
        if built.binary is not None:
            twin = session.twin(self.default)
            outcome = self._evaluate(self.default, built, twin, DEFAULT_EFFORT)
        if outcome.status == "slow":  # than a copy of itself: that is this cell's noise
            outcome.status, outcome.message = "ok", ""
        if outcome.status != "ok" or outcome.timing is None:
            raise TemplateError(
                f"{self.default.name}: the template's default is {outcome.status}: {outcome.message}; "
                "`moetune doctor` tells whether the toolchain works"
            )
        if session.plan.noise_floor is None:
            self.floor = floor_of(outcome.timing.race.ratio(1))
        for row in rows:
            if row.variant_id == self.default.id and row.status == "ok" and row.id is not None:
                self._keep(Tried(self.default, row.id, 1.0, 1.0, 1.0), row.status)
                return
        trial_id = self._record(self.default, built, outcome)
        self._keep(Tried(self.default, trial_id, 1.0, 1.0, 1.0), "ok")

    def _keep(self, tried: Tried, status: str) -> None:
        self.tried[tried.variant.id] = tried
        self._note(tried.variant, tried.ratio, status)

    def _note(self, variant: Variant, ratio: float | None, status: str, message: str = "") -> None:
        """Counts a verdict, in this cell and in the session."""
        self.judged.add(variant.id)
        self.told.append(self._told(variant, ratio, kind(status, message)))
        self.arms.note(variant.template, ratio)
        self.statuses[status] += 1
        self.session.statuses[status] += 1
        best = self.incumbent
        self.share.note(best.ratio, (best.high - best.low) / 2 / best.ratio)

    def _told(self, variant: Variant, ratio: float | None, failure: str) -> Told:
        arm = self.arms.get(variant.template)
        config = arm.projected(variant.config) if arm else variant.config
        return Told(variant.template, config, ratio, failure)

    def _take_up_earlier(self, rows: Iterable[TrialRow]) -> None:
        """What finished sessions found is known; a stopped one's trials are answers, see `earlier`."""
        session = self.session
        sessions = session.database.sessions(*session.keys)
        end = resume.finished(sessions, self.workload)
        new = {row.variant_id: row for row in rows if row.variant_id not in self.judged}
        for row in new.values():
            session.saw(row.id)
            if (row.id or 0) <= end:
                self.learn(row)
        session.stopped.add(self.number, [row for row in new.values() if (row.id or 0) > end])

    def learn(self, row: TrialRow) -> None:
        """Takes up a trial that no search of this session asked for."""
        if row.variant_id not in self.judged:
            self.share.take()
            self._take_up(row)
            self.arms.remember(self.told[-1])

    def _take_up(self, row: TrialRow) -> None:
        """Counts a trial of this session or an earlier one."""
        variant, found = make(row.template, row.config), row.measurement
        ratio = found.ratio if found else None
        self.foreign += [row.environment["foreign"]] if "foreign" in row.environment else []
        if row.status == "ok" and found is not None and ratio is not None and row.id is not None:
            low, high = found.ratio_low or ratio, found.ratio_high or ratio
            self._keep(Tried(variant, row.id, ratio, low, high), "ok")
        else:
            self._note(variant, ratio, row.status, row.message)

    def offer(self, variant: Variant) -> None:
        """Another cell's new best is tried here, too: it is built already."""
        arm = self.arms.get(variant.template)
        if arm is None or variant.id in self.judged:
            return
        config = arm.projected(variant.config)
        if arm.space.holds(config):
            arm.search.enqueue(config)

    def ask(self) -> Candidate | None:
        """The next variant to try, its build begun unless a stopped session has its verdict; None when
        the search is at its end."""
        asked = self.arms.ask()
        if asked is None:
            return None
        arm, suggestion = asked
        variant = self._built_alike(arm, suggestion.config) or make(arm.template, suggestion.config)
        if self.session.stopped.holds(self.number, variant.id):
            self.session.builder.note(variant)
        else:
            self.session.builder.submit(variant)
        return Candidate(variant, suggestion, arm.search)

    def _built_alike(self, arm: Arm, config: Config) -> Variant | None:
        """A variant that was built for another cell and differs in nothing that matters here."""
        for variant in self.session.builder.variants:
            known = variant.id in self.judged or variant.template != arm.template
            if not known and arm.projected(variant.config) == config:
                return variant
        return None

    def judge(self, candidate: Candidate) -> None:
        """Gets the verdict on a candidate and tells the search."""
        status = self._verdict(candidate.variant, self._racing())
        told = self.told[-1]
        arm = self.arms.get(told.template)
        if arm is not None and candidate.search is arm.search:
            arm.search.tell(candidate.suggestion, told.ratio, told.failure)
        else:  # the packed form was settled meanwhile
            self.arms.remember(told)
        self.report("search", f"{candidate.variant.name} {status}")

    def visit(self, variant: Variant) -> None:
        """A finalist of another cell is tried here, unless it was."""
        if variant.id not in self.judged:
            self.session.follow(self.number, variant.id)
        if variant.id not in self.judged:
            status = self._verdict(variant, VISITOR_EFFORT, resume.VISIT)
            self.report("compare", f"{variant.name} {status}")

    def _racing(self) -> Effort:
        """A candidate is out when its interval lies above the incumbent's, by more than the noise."""
        reach = self.incumbent.high * (1 + self.floor)
        return dataclasses.replace(TRIAL_EFFORT, reach=min(SLOW, reach))

    def _verdict(self, variant: Variant, effort: Effort, notes: Environment = NO_NOTES) -> str:
        """The status of a variant, as a stopped session has it, or found and stored now.

        Both go through the same row, so that a session which goes on knows the same.
        """
        session, before = self.session, self.incumbent
        row = session.stopped.take(self.number, variant.id)
        row = row or session.database.trial(self._try(variant, effort, notes))
        self._take_up(row)
        best = self.incumbent
        if best is not before and best.ratio * (1 + self.floor) < before.ratio:
            session.offer(variant, self.number)
        return row.status

    def _try(self, variant: Variant, effort: Effort, notes: Environment) -> int:
        """Builds, verifies and times a variant, and stores the trial."""
        session = self.session
        built = session.builder.get(variant)
        base = self.entrant(self.default)
        outcome = self._evaluate(variant, built, base, effort)
        if self._doubted(outcome):
            outcome = session.confirm(built, variant, base, self.workload, outcome)
        outcome.environment.update(notes)
        session.count(outcome)
        return self._record(variant, built, outcome)

    def _evaluate(self, variant: Variant, built: Build, base: Entrant, effort: Effort) -> Outcome:
        session = self.session
        return trials.evaluate(
            session.worker, built, variant, base, self.workload, effort, session.plan.temperature
        )

    def _doubted(self, outcome: Outcome) -> bool:
        """Whether a time is too good to be believed at once."""
        if outcome.timing is None or outcome.ratio is None:
            return False
        base, own = (
            self.measured(outcome.timing, kernel, "trial").ceiling_fraction or 0.0
            for kernel in (0, 1)
        )
        above = (
            base <= DOUBTED_FRACTION < own
        )  # where the default is above it, the ceiling is wrong
        return above or outcome.ratio < DOUBTED_RATIO * self.incumbent.ratio

    def entrant(self, variant: Variant) -> Entrant:
        """A variant that was built, for a race."""
        built = self.session.builder.get(variant)
        assert built.binary is not None
        return Entrant.of(variant, built.binary.path)

    def _record(self, variant: Variant, built: Build, outcome: Outcome) -> int:
        session = self.session
        session.database.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        surroundings = session.surroundings.copy()
        surroundings["noise_floor"] = round(self.floor, 4)
        surroundings["base"] = self.default.name
        row = trials.row(
            variant, built, outcome, session.keys, self.workload, session.id, surroundings
        )
        measured = self.measured(outcome.timing, 1, "trial") if outcome.timing else None
        trial_id = session.database.record_trial(row, measured)
        session.saw(trial_id)
        return trial_id

    def measured(self, timing: Timing, kernel: int, kind: str) -> MeasurementRow:
        """The row of one kernel of a race."""
        session = self.session
        return measurement(timing, kernel, session.ceilings, session.target, session.problem, kind)

    def finalists(self, pack: str) -> list[Variant]:
        """The variants of a packed form by their ratio here, the fastest first."""
        found = [t for t in self.tried.values() if t.variant.pack == pack and t is not self.base]
        return [t.variant for t in sorted(found, key=lambda t: t.ratio)]

    def refute(self, variant: Variant, message: str) -> None:
        """A variant that passed here is wrong on other inputs: its trial says so from now on."""
        tried = self.tried.pop(variant.id, None)
        if tried is not None:
            self.session.database.refute(tried.trial_id, message)
            self.statuses["ok"] -= 1
            self.statuses["wrong"] += 1

    def report(self, stage: str, note: str) -> None:
        """Tells where the session stands."""
        best = self.incumbent.ratio if self.tried else None
        self.session.report(stage, note, self.workload, self.number, best)
