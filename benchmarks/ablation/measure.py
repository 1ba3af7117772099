"""Measure: one cell of the table, from the full kernel to a row for each idea."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ablation.edits import EditError
from ablation.ideas import Form, Idea, ideas

from tuner.codegen.compile import SourceRefused, compile_source
from tuner.intervals import Median
from tuner.measure.bench import Entrant, Timing
from tuner.measure.race import Effort
from tuner.measure.trial import COMPILE_S
from tuner.measure.worker import Worker
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.select import best_config
from tuner.space.variant import default_variant, make
from tuner.target import Target
from tuner.tune.verdicts import joined

# Where threads and pages happen to lie differs from process to process.
PROCESSES = 2
# Of the weights, at most: as given, and packed as the full kernel, its default, three narrow or plain ones do.
COPIES = 6
# What takes this many times as long needs no exact ratio.
FAR = 4.0
HEAT = Effort(budget_s=0.0, least_rounds=5)
RACE_S = 1200.0
SEED = 0

Report = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """An idea in one cell. `ratio` is the time without it / the time of the full kernel, paired.

    `form` tells what differs from the full kernel, in the fastest of `forms` ways; where there is none,
    `why_not` tells why, and the ratio is 0.
    """

    key: str
    idea: str
    off: str
    load: str
    form: str = ""
    forms: int = 0
    ratio: float = 0.0
    low: float = 0.0
    high: float = 0.0
    median_ns: float = 0.0
    rounds: int = 0
    why_not: str = ""


@dataclass(frozen=True)
class Cell:
    """All rows of one model and number of tokens, and what they were compared with."""

    model: str
    tokens: int
    load: str
    temperature: str
    full: str
    chosen: str
    full_median_ns: float
    rounds: int
    foreign: float
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Asked:
    """What to measure: loads over the experts and seconds of one race."""

    load: str = "uniform"
    skew: str = "zipf:1.2"
    budget_s: float = 15.0

    @property
    def effort(self) -> Effort:
        return Effort(budget_s=self.budget_s, least_rounds=9, precision=0.004, reach=1.5)


def full_kernel(
    problem: Problem, target: Target, db: str | os.PathLike[str] | None, workload: Workload
) -> tuple[Form, str]:
    """The stored winner of this very workload, else the default; and in words which it is."""
    found = best_config(problem, workload.tokens, workload.load, target, db)
    if found.match != "exact":
        variant = default_variant(problem, target, tokens=workload.tokens)
        return Form(variant, target), "no winner stored"
    won = "the default won" if found.evidence["is_default"] else "another than the default won"
    return Form(make(found.template, found.config), target), f"{won} ({found.reason})"


def measure(
    problem: Problem,
    target: Target,
    db: str | os.PathLike[str] | None,
    tokens: int,
    asked: Asked,
    report: Report,
) -> Cell:
    """One cell: builds and verifies every kernel, then times them in turn.

    Raises EditError when something can't be switched off any more as it is done here: it does not fit the
    template, does not compile, or makes a wrong kernel.
    """
    workload = Workload(tokens, asked.load)
    base, chosen = full_kernel(problem, target, db, workload)
    rows = ideas(problem, base, tokens, chosen)
    label = f"{problem.name or 'layer'}, T={tokens}"
    forms = list(dict.fromkeys([base, *(form for idea in rows for form in idea.forms)]))
    forms.sort(key=lambda form: (form != base, form.pack != base.pack, form.pack))
    report(f"{label}: {chosen}: {base.variant.name}")
    report(f"{label}: compiles {len(forms)} kernels")
    with ThreadPoolExecutor(target.cores) as pool:
        entrants = dict(
            zip(forms, pool.map(lambda f: _build(problem, f, base), forms), strict=True)
        )
    with Worker(problem, target, SEED) as worker:
        report(f"{label}: verifies them")
        for form, entrant in entrants.items():
            _verify(worker, form, base, entrant, tokens)
        report(f"{label}: times them under {workload.load}")
        timing, found = _race(worker, entrants, base, rows, workload, asked.effort)
        foreign = timing.race.foreign
        skew = Workload(tokens, asked.skew)
        if skew != workload:
            report(f"{label}: times the hand-out of work under {skew.load}")
            skewed = [idea for idea in rows if idea.skewed]
            other, more = _race(worker, entrants, base, skewed, skew, asked.effort)
            found, foreign = [*found, *more], max(foreign, other.race.foreign)
    return Cell(
        model=problem.name or "layer",
        tokens=tokens,
        load=workload.load,
        temperature=timing.temperature,
        full=base.variant.name,
        chosen=chosen,
        full_median_ns=timing.race.time(0).value,
        rounds=len(timing.race.times_ns[0]),
        foreign=foreign,
        rows=tuple(found),
    )


def _build(problem: Problem, form: Form, base: Form) -> Entrant:
    try:
        binary = compile_source(form.source(problem), form.target, timeout_s=COMPILE_S)
    except SourceRefused as error:
        mend = "mend what it changes"
        raise EditError(f"{form.changes(base)}: does not compile: {error}; {mend}") from error
    config = form.variant.config
    return Entrant(binary.path, form.pack, form.variant.ragged, config["workers"])


def _verify(worker: Worker, form: Form, base: Form, entrant: Entrant, tokens: int) -> None:
    verdict = worker.verify(entrant, tokens)
    if not verdict.ok:
        what = f"{form.changes(base)}: is wrong: {verdict.message}"
        raise EditError(f"{what}; mend what it changes")


def _race(
    worker: Worker,
    entrants: Mapping[Form, Entrant],
    base: Form,
    rows: Sequence[Idea],
    workload: Workload,
    effort: Effort,
) -> tuple[Timing, list[Row]]:
    """The full kernel against all forms of the ideas, in turn, in PROCESSES fresh processes.

    Forms that a heat finds FAR behind stay with its few rounds: they would take most of the time.
    """
    wanted = {form for idea in rows for form in idea.forms} - {base}
    forms = [base, *(form for form in entrants if form in wanted)]

    def timed(forms: Sequence[Form], effort: Effort) -> Timing:
        worker.stop()
        chosen = [entrants[form] for form in forms]
        return worker.race(chosen, workload, effort, timeout_s=RACE_S)

    heat = timed(forms, HEAT)
    found = {form: _found(heat, number) for number, form in enumerate(forms)}
    close = [form for form in forms if found[form].ratio.low <= FAR]
    timing = joined([timed(close, effort) for _ in range(PROCESSES)])
    found |= {form: _found(timing, number) for number, form in enumerate(close)}
    return timing, [_row(idea, found, base, workload.load) for idea in rows]


@dataclass(frozen=True)
class _Found:
    ratio: Median
    median_ns: float
    rounds: int


def _found(timing: Timing, kernel: int) -> _Found:
    race = timing.race
    return _Found(race.ratio(kernel), race.time(kernel).value, len(race.times_ns[kernel]))


def _row(idea: Idea, found: Mapping[Form, _Found], base: Form, load: str) -> Row:
    if not idea.forms:
        return Row(idea.key, idea.idea, idea.off, load, why_not=idea.why_not)
    fastest = min(idea.forms, key=lambda form: found[form].ratio.value)
    ratio = found[fastest].ratio
    return Row(
        key=idea.key,
        idea=idea.idea,
        off=idea.off,
        load=load,
        form=fastest.changes(base),
        forms=len(idea.forms),
        ratio=ratio.value,
        low=ratio.low,
        high=ratio.high,
        median_ns=found[fastest].median_ns,
        rounds=found[fastest].rounds,
    )
