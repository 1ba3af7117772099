"""Trial: one variant through the stages, and what became of it as a row.

Render, compile, verify, race against the default. Stages raise; here, and nowhere else, what they
raise becomes a status.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tuner.codegen.batch import compile_together
from tuner.codegen.compile import (
    Binary,
    CompilerFailed,
    CompilerKilled,
    CompileTimeout,
    SourceRefused,
    compile_source,
)
from tuner.codegen.render import Source, render
from tuner.errors import KernelError, TemplateError
from tuner.host.toolchain import toolchain_version
from tuner.measure.bench import Bench, Entrant, Timing
from tuner.measure.metrics import limits_of, noise
from tuner.measure.race import SLOW, Effort
from tuner.measure.worker import WorkerCrash, WorkerTimeout
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.templates import digest
from tuner.space.variant import Variant
from tuner.store.records import PASSING, Environment, TrialRow
from tuner.target import Target
from tuner.target.roofline import Limits
from tuner.version import __version__

COMPILE_S = 120.0
CONFIRM_EFFORT = Effort(budget_s=1.5)


@dataclass(frozen=True)
class Build:
    """A source and its binary, or why there is none.

    ``passing`` says that the reason is none of the source: the next session tries again.
    """

    source: Source
    binary: Binary | None
    status: str
    message: str
    render_ms: float
    compile_ms: float
    passing: bool = False


@dataclass
class Outcome:
    """What became of a variant on a workload; `ratio` is its time / the default's."""

    status: str
    message: str = ""
    ratio: float | None = None
    timing: Timing | None = None
    verify_ms: float | None = None
    benchmark_ms: float | None = None
    environment: Environment = field(default_factory=lambda: Environment())


def build(problem: Problem, target: Target, variant: Variant) -> Build:
    """Renders and compiles; a refusal is a status. A missing toolchain still raises."""
    return build_all(problem, target, [variant])[0]


def build_all(problem: Problem, target: Target, variants: Sequence[Variant]) -> list[Build]:
    """The same for several, in one run of the compiler where that works."""
    rendered = [_render(problem, variant) for variant in variants]
    texts = [made.source.text for made in rendered if made.status == "ok"]
    together = compile_together(texts, target, timeout_s=COMPILE_S) if len(texts) > 1 else {}
    return [
        _build(made.source, made.render_ms, target, together.get(made.source.text))
        if made.status == "ok"
        else made
        for made in rendered
    ]


def _render(problem: Problem, variant: Variant) -> Build:
    """The source, or why there is none: a template that does not render is no kernel that compiles."""
    start = time.perf_counter()
    try:
        source, status, message = render(problem, variant), "ok", ""
    except TemplateError as error:
        source, status, message = Source(variant.name, ""), "compile", str(error)
    return Build(source, None, status, message, 1e3 * (time.perf_counter() - start), 0.0)


def _build(source: Source, render_ms: float, target: Target, built: Binary | None) -> Build:
    """`built` is the binary where there is one already."""
    try:
        binary = built or _compile(source, target)
    except CompileTimeout as error:
        return Build(source, None, "timeout", str(error), render_ms, 1e3 * COMPILE_S, passing=True)
    except CompilerFailed as error:
        return Build(source, None, "compile", str(error), render_ms, 0.0, passing=True)
    except SourceRefused as error:
        return Build(source, None, "compile", str(error), render_ms, 0.0)
    return Build(source, binary, "ok", "", render_ms, 1e3 * binary.seconds)


def _compile(source: Source, target: Target) -> Binary:
    """Once more where the compiler was killed: it may have been short of memory beside other builds."""
    with contextlib.suppress(CompilerKilled):
        return compile_source(source.text, target, timeout_s=COMPILE_S)
    return compile_source(source.text, target, timeout_s=COMPILE_S)


def evaluate(
    bench: Bench,
    built: Build,
    variant: Variant,
    base: Entrant | None,
    workload: Workload,
    effort: Effort,
    temperature: str,
) -> Outcome:
    """Verifies and times a built variant, against `base` (the default) in the same race."""
    if built.binary is None:
        return Outcome(built.status, built.message)
    entrant = Entrant.of(variant, built.binary.path)
    outcome = Outcome("ok")
    try:
        with _timed(outcome, "verify_ms"):
            verdict = bench.verify(entrant, workload.tokens)
        if not verdict.ok:
            return Outcome("wrong", verdict.message, verify_ms=outcome.verify_ms)
        entrants = [base, entrant] if base else [entrant]
        with _timed(outcome, "benchmark_ms"):
            timing = bench.race(entrants, workload, effort, temperature)
    except WorkerTimeout as error:
        return Outcome("timeout", str(error))
    except (WorkerCrash, KernelError) as error:
        return Outcome("crash", str(error))
    ratio = timing.race.ratio(len(entrants) - 1)
    outcome.timing, outcome.ratio = timing, ratio.value
    if ratio.low > SLOW:
        outcome.status, outcome.message = "slow", f"{ratio.value:.2f} times the default's time"
    return outcome


@contextlib.contextmanager
def _timed(outcome: Outcome, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    setattr(outcome, name, 1e3 * (time.perf_counter() - start))


def environment(target: Target, limits: Limits) -> Environment:
    """What a row should say about where it was measured, besides its Target."""
    return Environment(
        toolchain=toolchain_version(),
        moetune=__version__,
        python=platform.python_version(),
        kernel=platform.release(),
        cpu=target.name,
        cores=target.cores,
        load_1m=round(os.getloadavg()[0], 2),
        **limits_of(limits),
    )


def row(
    variant: Variant,
    built: Build,
    outcome: Outcome,
    keys: tuple[str, str],
    workload: Workload,
    session: str,
    surroundings: Environment,
) -> TrialRow:
    """The trial's row; `keys` are the ids of problem and target."""
    race = outcome.timing.race if outcome.timing else None
    return TrialRow(
        problem_id=keys[0],
        target_id=keys[1],
        variant_id=variant.id,
        tokens=workload.tokens,
        load=workload.load,
        status=outcome.status,
        message=outcome.message.splitlines()[0] if outcome.message else "",
        source_digest=built.source.digest,
        binary_key=built.binary.key if built.binary else "",
        render_ms=built.render_ms,
        compile_ms=built.compile_ms,
        verify_ms=outcome.verify_ms,
        benchmark_ms=outcome.benchmark_ms,
        environment={
            **surroundings,
            **(noise(race) if race else {}),
            **(PASSING if built.passing else {}),
            **outcome.environment,
            "template": digest(variant.template),
        },
        session=session,
    )
