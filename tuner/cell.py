"""Cell: the search for one workload of a session, from the default to its finalists."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from tuner import space as spaces
from tuner import trial as trials
from tuner.bench_state import Entrant, Timing, is_cold
from tuner.benchmark import Effort
from tuner.errors import SpaceError, TemplateError
from tuner.failure import kind
from tuner.finals import floor_of
from tuner.measurement import measurement
from tuner.records import MeasurementRow, TrialRow
from tuner.render import render
from tuner.schedule import Share
from tuner.search import Search, Suggestion
from tuner.session import Session
from tuner.space import Config
from tuner.trial import Build, Outcome
from tuner.variant import CPU_TEMPLATE, Variant, default_variant, make, pack_config
from tuner.workload import Workload

TRIAL_EFFORT = Effort(budget_s=1.0)
DEFAULT_EFFORT = Effort(budget_s=1.5)
# Finalists of other cells: enough to rank them here.
VISITOR_EFFORT = Effort(budget_s=0.5, reach=trials.SLOW)
# A time this far below the best one so far is doubted, and so is one above the ceiling.
DOUBTED_RATIO = 0.75
DOUBTED_FRACTION = 1.05


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
    """A variant on its way to a verdict: who suggested it, and its build."""

    variant: Variant
    suggestion: Suggestion
    search: Search
    build: Future[Build]


class Cell:
    """The search for one workload."""

    def __init__(self, session: Session, workload: Workload, weight: float, number: int) -> None:
        self.session, self.workload, self.number = session, workload, number
        self.statuses: Counter[str] = Counter()
        self.tried: dict[str, Tried] = {}
        self.judged: set[str] = set()
        self.told: list[tuple[Config, float | None, str]] = []
        self.share = Share(weight)
        self.floor = session.plan.noise_floor or 0.0
        problem, target = session.problem, session.target
        file = spaces.load(CPU_TEMPLATE)
        self.space = spaces.resolve(file, problem, target, workload.tokens)
        self.idle = spaces.idle(file, self.space.facts)
        self.default = default_variant(problem, target, tokens=workload.tokens)
        self.search = self._new_search()

    def begin(self) -> None:
        """Measures the default against its copy, and takes up what earlier sessions found."""
        self.report("default", self.default.name)
        earlier = self._earlier()
        self._try_default(earlier)
        self._replay(earlier)
        self.pin(self.session.pack)

    def pin(self, pack: str | None) -> None:
        """Searches on among the variants of one packed form; what was tried there is known."""
        if pack is not None:
            self.space = self.space.pin(pack_config(pack))
        self.search = self._new_search()
        for told in self.told:
            self.search.remember(*told)
        for config in self.session.warm_starts(self.workload, self.space):
            self.search.enqueue(config)

    def _new_search(self) -> Search:
        plan = self.session.plan
        return Search(self.space, plan.seed + self.number, plan.sampler, plan.trials)

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

    def _try_default(self, earlier: Iterable[TrialRow]) -> None:
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
        for row in earlier:
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
        self.told.append((self.projected(variant.config), ratio, kind(status, message)))
        self.statuses[status] += 1
        self.session.statuses[status] += 1
        best = self.incumbent
        self.share.note(best.ratio, (best.high - best.low) / 2 / best.ratio)

    def _replay(self, earlier: Iterable[TrialRow]) -> None:
        """Takes up what earlier sessions found."""
        for row in earlier:
            if row.variant_id in self.judged or row.id is None:
                continue
            variant, found = make(row.template, row.config), row.measurement
            ratio = found.ratio if found else None
            self.share.take()
            if row.status == "ok" and found is not None and ratio is not None:
                low, high = found.ratio_low or ratio, found.ratio_high or ratio
                self._keep(Tried(variant, row.id, ratio, low, high), "ok")
            else:
                self._note(variant, ratio, row.status, row.message)

    def projected(self, config: Config) -> Config:
        """A configuration with what has no effect on this workload as the space has it."""
        return {n: self.space.default[n] if n in self.idle else v for n, v in config.items()}

    def offer(self, variant: Variant) -> None:
        """Another cell's new best is tried here, too: it is built already."""
        config = self.projected(variant.config)
        inside = all(value in self.space.values[name] for name, value in config.items())
        if inside and variant.id not in self.judged:
            self.search.enqueue(config)

    def ask(self) -> Candidate | None:
        """The next variant to try, its build begun; None when the search is at its end."""
        suggestion = self.search.ask()
        if suggestion is None:
            return None
        variant = self._built_alike(suggestion.config) or make(
            self.space.template, suggestion.config
        )
        build = self.session.builder.submit(variant)
        return Candidate(variant, suggestion, self.search, build)

    def _built_alike(self, config: Config) -> Variant | None:
        """A variant that was built for another cell and differs in nothing that matters here."""
        for variant in self.session.builder.variants:
            if variant.id not in self.judged and self.projected(variant.config) == config:
                return variant
        return None

    def judge(self, candidate: Candidate) -> None:
        """Verifies and times a candidate, stores the trial, and tells the search."""
        outcome = self._verdict(candidate.variant, self._racing())
        if candidate.search is self.search:
            failure = kind(outcome.status, outcome.message)
            self.search.tell(candidate.suggestion, outcome.ratio, failure)
        else:  # the packed form was settled meanwhile
            self.search.remember(*self.told[-1])
        self.report("search", f"{candidate.variant.name} {outcome.status}")

    def visit(self, variant: Variant) -> None:
        """A finalist of another cell is tried here, unless it was."""
        if variant.id not in self.judged:
            outcome = self._verdict(variant, VISITOR_EFFORT)
            self.report("compare", f"{variant.name} {outcome.status}")

    def _racing(self) -> Effort:
        """A candidate is out when its interval lies above the incumbent's, by more than the noise."""
        reach = self.incumbent.high * (1 + self.floor)
        return dataclasses.replace(TRIAL_EFFORT, reach=min(trials.SLOW, reach))

    def _verdict(self, variant: Variant, effort: Effort) -> Outcome:
        session, before = self.session, self.incumbent
        built = session.builder.get(variant)
        base = self.entrant(self.default)
        outcome = self._evaluate(variant, built, base, effort)
        if self._doubted(outcome):
            outcome = session.confirm(built, variant, base, self.workload, outcome)
        session.count(outcome)
        trial_id = self._record(variant, built, outcome)
        if outcome.status == "ok" and outcome.timing is not None:
            ratio = outcome.timing.race.ratio(1)
            self._keep(Tried(variant, trial_id, ratio.value, ratio.low, ratio.high), "ok")
            if ratio.value * (1 + self.floor) < before.ratio:
                session.offer(variant, self.number)
        else:
            self._note(variant, outcome.ratio, outcome.status, outcome.message)
        return outcome

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
        return Entrant(built.binary.path, variant.pack)

    def _record(self, variant: Variant, built: Build, outcome: Outcome) -> int:
        session = self.session
        session.database.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        surroundings = {**session.surroundings, "noise_floor": round(self.floor, 4)}
        row = trials.row(
            variant, built, outcome, session.keys, self.workload, session.id, surroundings
        )
        measured = self.measured(outcome.timing, 1, "trial") if outcome.timing else None
        return session.database.record_trial(row, measured)

    def measured(self, timing: Timing, kernel: int, kind: str) -> MeasurementRow:
        """The row of one kernel of a race."""
        session = self.session
        return measurement(timing, kernel, session.ceilings, session.target, session.problem, kind)

    def finalists(self, pack: str) -> list[Variant]:
        """The variants of a packed form by their ratio here, the fastest first."""
        found = [t for t in self.tried.values() if t.variant.pack == pack and t is not self.base]
        return [t.variant for t in sorted(found, key=lambda t: t.ratio)]

    def report(self, stage: str, note: str) -> None:
        """Tells where the session stands."""
        best = self.incumbent.ratio if self.tried else None
        self.session.report(stage, note, self.workload, self.number, best)
