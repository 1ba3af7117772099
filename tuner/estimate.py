"""Estimate: what a session will have to do, and for how long, before it starts; and what is left of it.

Times are medians of this machine's own earlier trials, of the nearest problem first. Without any, they
are those of the winners that moetune ships, and it is said that they are of another machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner import points, template
from tuner import space as spaces
from tuner.bench_state import is_cold
from tuner.builder import MOST_BUILDERS, split_cores
from tuner.compile import is_cached, toolchain_version
from tuner.contest import FINAL_EFFORT, PROCESSES
from tuner.database import Database
from tuner.errors import SpaceError
from tuner.history import History, StageTimes
from tuner.plan import Plan, Progress
from tuner.points import Count
from tuner.problem import Problem
from tuner.records import TrialRow
from tuner.render import render
from tuner.session import FINALS_S
from tuner.space import Space
from tuner.target import Target
from tuner.variant import CPU_TEMPLATE, Variant, default_variant, make, pack_config
from tuner.workload import Workload

# The estimate counts as so many seconds of experience when a session's own pace corrects it.
TRUST_S = 30.0


@dataclass(frozen=True)
class CellEstimate:
    """One workload of a session.

    Attributes:
        points: valid configurations of its space.
        recorded: trials that the database has already; they are not made again.
        trials: new ones.
        cached: of the new ones that are known now (default and starts), those that need no build.
        search_s, finals_s: what trials and finals will take.
    """

    workload: Workload
    points: Count
    recorded: int
    trials: int
    cached: int
    times: StageTimes
    search_s: float
    finals_s: float

    @property
    def builds(self) -> int:
        return self.trials - self.cached

    @property
    def seconds(self) -> float:
        return self.search_s + self.finals_s


@dataclass(frozen=True)
class Estimate:
    """A session: its cells in order; ``budget_s`` is the time it was given, None for any."""

    cells: tuple[CellEstimate, ...]
    budget_s: float | None

    @property
    def seconds(self) -> float:
        return sum(cell.seconds for cell in self.cells)


def estimate(problem: Problem, target: Target, db: Database, plan: Plan) -> Estimate:
    """What ``tune`` with this plan will do. Only reads; renders a few sources, compiles nothing.

    Raises:
        TemplateError: the template does not support the problem.
        CompileError: the toolchain is missing.
    """
    history = History(db, target)
    keys = (problem.digest, target.digest)
    best = db.best(*keys)
    pack = best[0]["pack"] if best else None
    built: set[str] = set()
    cells: list[CellEstimate] = []
    for workload, _ in plan.cells():
        rows = db.trials(*keys, workload.tokens, workload.load)
        recorded = {row.variant_id for row in rows if _is_current(problem, plan, workload, row)}
        cell = _Cell(problem, target, plan, workload, pack, recorded)
        times = history.times(problem, workload)
        cells.append(cell.estimate(times, built, first=not cells))
        # The first cell's winner decides the packed form; its default's is the likeliest.
        pack = pack or cell.default.pack
    return Estimate(tuple(cells), plan.time_s)


def _is_current(problem: Problem, plan: Plan, workload: Workload, row: TrialRow) -> bool:
    """Whether a session would take over this trial: same compiler, source and temperature."""
    if row.environment.get("toolchain") != toolchain_version():
        return False
    warmth = "cold" if is_cold(workload, plan.temperature) else "warm"
    if row.measurement and row.measurement.temperature != warmth:
        return False
    try:
        variant = make(row.template, row.config)
    except SpaceError:  # the template's parameters changed since
        return False
    if row.environment.get("template") == template.digest(row.template):
        return True
    return render(problem, variant).digest == row.source_digest


class _Cell:
    """The space of one workload and what a session will surely try in it."""

    def __init__(self, problem: Problem, target: Target, plan: Plan, workload: Workload,
                 pack: str | None, recorded: set[str]) -> None:  # fmt: skip
        self.problem, self.target, self.plan, self.workload = problem, target, plan, workload
        self.recorded = recorded
        file = spaces.load(CPU_TEMPLATE)
        self.default = default_variant(problem, target, tokens=workload.tokens)
        space = spaces.resolve(file, problem, target, workload.tokens)
        self.space = space.pin(pack_config(pack)) if pack else space
        self.starts = file.starts

    def estimate(self, times: StageTimes, built: set[str], first: bool) -> CellEstimate:
        """``built`` holds the sources that earlier cells will have built, and gets this one's."""
        cores = split_cores(self.target.cores)
        builders = min(MOST_BUILDERS, len(cores.spare or cores.measuring))
        apart_s = times.verify_s + times.benchmark_s
        size = points.count(self.space)
        trials = self._new_trials(size, times.compile_s / builders + apart_s)
        cached = self._cached(trials, built)
        search_s = (trials - cached) * times.compile_s / builders + trials * apart_s
        return CellEstimate(
            workload=self.workload,
            points=size,
            recorded=len(self.recorded),
            trials=trials,
            cached=cached,
            times=times,
            search_s=search_s + (times.first_s if first and trials else 0.0),
            finals_s=PROCESSES * (times.first_s + FINAL_EFFORT.budget_s),
        )

    def _new_trials(self, size: Count, trial_s: float) -> int:
        """As many as the plan, the time and the space allow; the default in any case."""
        limits = [size.high - len(self.recorded)]
        if self.plan.trials is not None:
            limits.append(self.plan.trials - len(self.recorded))
        if self.plan.time_s is not None:
            share_s = self.plan.time_s / len(self.plan.cells()) - FINALS_S
            limits.append(share_s // trial_s if trial_s else size.high)
        return max(int(min(limits)), 0 if self.default.id in self.recorded else 1)

    def _cached(self, trials: int, built: set[str]) -> int:
        """How many of the first ``trials`` that are known now need no build."""
        known = [v for v in self._surely_tried() if v.id not in self.recorded][:trials]
        cached = 0
        for variant in known:
            source = render(self.problem, variant)
            cached += source.digest in built or is_cached(source.text, self.target)
            built.add(source.digest)
        return cached

    def _surely_tried(self) -> list[Variant]:
        """The default and the starts of the space file that lie in the space."""
        configs = [self.space.default, *({**self.space.default, **s} for s in self.starts)]
        valid = [make(self.space.template, c) for c in configs if _inside(self.space, c)]
        return list(dict.fromkeys([self.default, *valid]))


def _inside(space: Space, config: Mapping[str, int]) -> bool:
    known = all(config[name] in values for name, values in space.values.items())
    return known and space.broken(config) is None


class TimeLeft:
    """What a running session still needs: the estimate, corrected by the pace of this session.

    Cells may be worked on in any order, or in turns: what is done is counted by workload.
    """

    def __init__(self, estimate: Estimate) -> None:
        self._estimate = estimate
        self._cells = {cell.workload: cell for cell in estimate.cells}
        self._done_s = dict.fromkeys(self._cells, 0.0)

    def __call__(self, report: Progress) -> float:
        """Seconds left after this report, and never more than the session's time allows."""
        cell = self._cells.get(report.workload)
        if cell is not None:
            self._done_s[report.workload] = _done_s(cell, report)
        done_s, total_s = sum(self._done_s.values()), self._estimate.seconds
        pace = (TRUST_S + report.elapsed_s) / (TRUST_S + done_s)
        left_s = pace * (total_s - done_s)
        if report.budget_s is None:
            return left_s
        allowed_s = max(0.0, report.budget_s - report.elapsed_s)
        # Without a number of trials the search goes on for as long as it may.
        return allowed_s if report.planned is None else min(left_s, allowed_s)


def _done_s(cell: CellEstimate, report: Progress) -> float:
    """How much of a cell's estimated time is behind it."""
    if report.stage == "done":
        return cell.seconds
    if report.stage == "finals" or not cell.trials:
        return cell.search_s
    share = (report.trials - cell.recorded) / cell.trials
    return cell.search_s * min(1.0, max(0.0, share))
