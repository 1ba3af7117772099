"""Estimate: what a session will have to do, and for how long, before it starts; and what is left of it.

Times are medians of this machine's own earlier trials, see ``tuner.tune.stage_times``. The session is followed
step by step: the defaults, the search with its builds, finalists that visit other cells, the finals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.codegen.compile import is_cached
from tuner.codegen.render import render
from tuner.errors import SpaceError, TemplateError
from tuner.host.lock import WAITING
from tuner.host.toolchain import toolchain_version
from tuner.measure.bench import is_cold
from tuner.measure.race import FINAL_EFFORT
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.winner_cache import Row
from tuner.space import count as points
from tuner.space import space as spaces
from tuner.space.count import Count
from tuner.space.space import Config, Space
from tuner.space.variant import Variant, make
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target
from tuner.tune import held_out, warm_start
from tuner.tune.arms import Arms, readable
from tuner.tune.builder import MOST_BUILDERS, measuring_cores, split_cores
from tuner.tune.cell import VISITOR_EFFORT
from tuner.tune.contest import NOMINEES
from tuner.tune.finals import PROCESSES
from tuner.tune.plan import Plan, Progress
from tuner.tune.resume import is_to
from tuner.tune.session import CELL_FINALS_S, FINALS_S
from tuner.tune.shortlist import FINALISTS
from tuner.tune.stage_times import History, StageTimes

# The estimate counts as so many seconds of experience when a session's own pace corrects it.
TRUST_S = 30.0
# Stages in the order in which a session goes through them.
STAGES = (WAITING, "default", "search", "compare", "finals", "held out", "done")


@dataclass(frozen=True)
class CellEstimate:
    """One workload of a session.

    Attributes:
        points: valid configurations of its space.
        recorded: trials that the database has already; they are not made again.
        trials: new ones; a session deals them as it goes, so this is the mean share.
        cached: of the new ones that are known now (default, warm starts and starts), those that need
            no build.
        search_s: what its trials will take.
        visits_s: what finalists of other cells will take here.
        finals_s: what its final races will take.
    """

    workload: Workload
    points: Count
    recorded: int
    trials: int
    cached: int
    times: StageTimes
    search_s: float
    visits_s: float
    finals_s: float

    @property
    def builds(self) -> int:
        return self.trials - self.cached


@dataclass(frozen=True)
class Estimate:
    """A session: its cells in order.

    ``start_s`` is for the weights and right answers of each process, ``held_out_s`` for the workloads
    on which the choice is checked; ``budget_s`` is the time it was given, None for any.
    """

    cells: tuple[CellEstimate, ...]
    start_s: float
    held_out_s: float
    budget_s: float | None

    def stage_s(self, stage: str) -> float:
        """What a stage takes, all cells together."""
        if stage == "default":
            return self.start_s
        if stage == "held out":
            return self.held_out_s
        part = {"search": "search_s", "compare": "visits_s", "finals": "finals_s"}.get(stage)
        return sum(getattr(cell, part) for cell in self.cells) if part else 0.0

    @property
    def seconds(self) -> float:
        return sum(map(self.stage_s, STAGES))

    @property
    def trials(self) -> int:
        return sum(cell.trials for cell in self.cells)

    @property
    def recorded(self) -> int:
        return sum(cell.recorded for cell in self.cells)


def estimate(problem: Problem, target: Target, db: Database, plan: Plan) -> Estimate:
    """What ``tune`` with this plan will do. Only reads; renders a few sources, compiles nothing.

    Raises:
        TemplateError: the template does not support the problem.
        CompileError: the toolchain is missing.
    """
    history = History(db, target)
    session = _Session(problem, target, db, plan)
    cells = [session.cell(workload, history) for workload, _ in plan.cells()]
    first_s = max(cell.times.first_s for cell in cells)
    checked_s = held_out.EFFORT.budget_s + NOMINEES * max(cell.times.verify_s for cell in cells)
    return Estimate(
        cells=tuple(cells),
        start_s=(1 + PROCESSES) * first_s,
        held_out_s=len(plan.held_out) * checked_s,
        budget_s=plan.time_s,
    )


class _Session:
    """What the cells of one session share."""

    def __init__(self, problem: Problem, target: Target, db: Database, plan: Plan) -> None:
        self.problem, self.target, self.db, self.plan = problem, target, db, plan
        self.keys = (problem.digest, target.digest)
        best = db.best(*self.keys)
        earlier = best[0]["pack"] if best else None
        self.pack = earlier if readable(earlier, problem, target, plan.template) else None
        self.winners: list[Row] = list(db.best())
        self.built: set[str] = set()
        count = len(plan.cells())
        # As Session.finals_s and FinalRaces._budget_s have it.
        self.kept_s = min((plan.time_s or 0.0) / 3, FINALS_S + CELL_FINALS_S * count)
        share_s = self.kept_s / 2 / PROCESSES / count if plan.time_s else FINAL_EFFORT.budget_s
        self.race_s = min(FINAL_EFFORT.budget_s, share_s)
        cores = split_cores(measuring_cores(target))
        self.ahead = bool(cores.spare)
        self.builders = max(1, min(MOST_BUILDERS, len(cores.spare or cores.measuring)))

    def cell(self, workload: Workload, history: History) -> CellEstimate:
        plan, times = self.plan, history.times(self.problem, workload)
        arms = Arms(self.problem, self.target, workload, plan, plan.seed)
        default = arms.default
        arms.pin(self.pack, ())
        recorded = self._recorded(workload, default)
        size = points.summed([points.count(arm.space) for arm in arms])
        build_s, apart_s = times.compile_s / self.builders, times.verify_s + times.benchmark_s
        trials = self._trials(
            size, len(recorded), default.id in recorded, self._both(build_s, apart_s)
        )
        cached = self._cached(self._known(workload, arms, default), recorded, trials)
        visitors = (len(plan.cells()) - 1) * max(1, NOMINEES // len(plan.cells()))
        return CellEstimate(
            workload=workload,
            points=size,
            recorded=len(recorded),
            trials=trials,
            cached=cached,
            times=times,
            search_s=self._both((trials - cached) * build_s, trials * apart_s),
            visits_s=visitors * (times.verify_s + VISITOR_EFFORT.budget_s),
            finals_s=PROCESSES * self.race_s + (1 + FINALISTS) * times.verify_s,
        )

    def _both(self, build_s: float, apart_s: float) -> float:
        """Builds that run on cores of their own cost no time but their own; others come on top."""
        return max(build_s, apart_s) if self.ahead else build_s + apart_s

    def _recorded(self, workload: Workload, default: Variant) -> set[str]:
        """Variants whose trials the session will take over."""
        rows = self.db.trials(*self.keys, workload.tokens, workload.load)
        return {
            row.variant_id
            for row in rows
            if is_to(row, default) and self._is_current(workload, row)
        }

    def _is_current(self, workload: Workload, row: TrialRow) -> bool:
        """As ``resume.is_current`` has it."""
        if row.passing or row.environment.get("toolchain") != toolchain_version():
            return False
        warmth = "cold" if is_cold(workload, self.plan.temperature, self.target.kind) else "warm"
        if row.measurement and row.measurement.temperature != warmth:
            return False
        try:
            variant = make(row.template, row.config)
        except (SpaceError, TemplateError):  # its parameters changed, or it is not installed
            return False
        if spaces.is_current(row.template, row.environment.get("template", "")):
            return True
        return render(self.problem, variant).digest == row.source_digest

    def _trials(self, size: Count, recorded: int, has_default: bool, trial_s: float) -> int:
        """As many as plan, time and space allow; the default in any case."""
        plan, limits = self.plan, [size.high - recorded]
        if plan.trials is not None:
            limits.append(plan.trials - recorded)
        if plan.time_s is not None:
            search_s = (plan.time_s - self.kept_s) / len(plan.cells())
            limits.append(search_s // trial_s if trial_s else size.high)
        return max(int(min(limits)), 0 if has_default else 1)

    def _known(self, workload: Workload, arms: Arms, default: Variant) -> list[Variant]:
        """What will be tried first: the default, warm starts, the starts of the space files."""
        request = warm_start.Request(self.problem, self.target, workload, toolchain_version())
        known = [default]
        for space in (arm.space for arm in arms):
            configs: list[Config] = [
                space.default,
                *warm_start.starts(self.winners, request, space, self.plan.warm_starts),
                *({**space.default, **start} for start in space.starts),
            ]
            known += [
                make(space.template, space.canonical(c)) for c in configs if _inside(space, c)
            ]
        return list(dict.fromkeys(known))

    def _cached(self, known: list[Variant], recorded: set[str], trials: int) -> int:
        """How many of the first ``trials`` that are known now need no build, or only one in the session."""
        cached = 0
        for variant in [v for v in known if v.id not in recorded][:trials]:
            source = render(self.problem, variant)
            cached += source.digest in self.built or is_cached(source.text, self.target)
            self.built.add(source.digest)
        return cached


def _inside(space: Space, config: Mapping[str, int]) -> bool:
    return space.holds(config) and space.broken(config) is None


class TimeLeft:
    """What a running session still needs: the estimate, corrected by the pace of this session."""

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate

    def __call__(self, report: Progress) -> float:
        """Seconds left after this report, and never more than the session's time allows."""
        done_s = self._done_s(report)
        pace = (TRUST_S + report.elapsed_s) / (TRUST_S + done_s)
        left_s = pace * (self._estimate.seconds - done_s)
        if report.budget_s is None:
            return left_s
        allowed_s = max(0.0, report.budget_s - report.elapsed_s)
        searching = report.stage in (WAITING, "default", "search")
        # Without a number of trials the search goes on for as long as it may.
        return allowed_s if searching and report.planned is None else min(left_s, allowed_s)

    def _done_s(self, report: Progress) -> float:
        """How much of the estimated time is behind the session: the stages before, and of the search
        the trials that were made."""
        before = STAGES[: STAGES.index(report.stage)]
        done_s = sum(map(self._estimate.stage_s, before))
        if report.stage != "search" or not self._estimate.trials:
            return done_s
        share = (report.trials - self._estimate.recorded) / self._estimate.trials
        return done_s + self._estimate.stage_s("search") * min(1.0, max(0.0, share))
