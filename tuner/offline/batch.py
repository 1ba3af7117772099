"""Batch: which variants a round tries on each token count, of all templates that serve the layer."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space import failure, space
from tuner.space.space import Config
from tuner.space.variant import Variant, make
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target
from tuner.tune.arms import Arms, Told, readable
from tuner.tune.plan import Plan
from tuner.tune.resume import is_to


@dataclass(frozen=True)
class Round:
    """What is asked of a round: ``trials`` variants for each token count, in at most ``most_bytes``.

    Of a CPU: ``cores``, those that measured the problem before, else as many as are here, unless given; and
    ``temperature`` of the weights, cold, warm or auto. ``template`` pins one; empty: all that serve the layer.
    """

    tokens: tuple[int, ...]
    load: str
    trials: int
    seed: int
    sampler: str
    most_bytes: int
    cores: int | None = None
    temperature: str = "auto"
    template: str = ""


def variants(
    problem: Problem, target: Target, db: Database, asked: Round
) -> dict[Variant, tuple[int, ...]]:
    """Variants -> the token counts on which they are tried: all where their space has them. Defaults first."""
    plan = Plan(asked.tokens, trials=asked.trials, sampler=asked.sampler, template=asked.template)
    spaces = {
        t: Arms(problem, target, Workload(t, asked.load), plan, asked.seed) for t in asked.tokens
    }
    batches = [_batch(problem, target, db, asked, plan, t) for t in asked.tokens]
    order = [batch[i] for i in range(asked.trials) for batch in batches if i < len(batch)]
    return {
        v: tuple(t for t, arms in spaces.items() if _has(arms, v)) for v in dict.fromkeys(order)
    }


def defaults(problem: Problem, target: Target, asked: Round) -> dict[str, str]:
    """The name of the default of each token count."""
    plan = Plan(asked.tokens, template=asked.template)
    workloads = (Workload(t, asked.load) for t in asked.tokens)
    found = {w: Arms(problem, target, w, plan, asked.seed).default for w in workloads}
    return {str(workload.tokens): variant.name for workload, variant in found.items()}


def _has(arms: Arms, variant: Variant) -> bool:
    """Whether a workload's spaces have a variant, whatever its parameters of no effect there may be."""
    arm = arms.get(variant.template)
    if arm is None:
        return False
    config = arm.projected(variant.config)
    return arm.space.holds(config) and arm.space.broken(config) is None


def _batch(
    problem: Problem, target: Target, db: Database, asked: Round, plan: Plan, tokens: int
) -> list[Variant]:
    """The default, then what the search wants to try next on this token count: in the packed form that
    earlier winners settled, if there are any."""
    workload = Workload(tokens, asked.load)
    arms = Arms(problem, target, workload, plan, asked.seed)
    batch = [arms.default]
    rows = db.best(problem.digest, target.digest)
    told = [
        _told(trial)
        for trial in db.trials(problem.digest, target.digest, workload.tokens, workload.load)
        if not trial.passing
        and space.is_current(trial.template, trial.environment.get("template", ""))
        and is_to(trial, arms.default)
    ]
    pack = rows[0]["pack"] if rows else None
    arms.pin(pack if readable(pack, problem, target, asked.template) else None, told)
    for verdict in told:
        arms.note(verdict.template, verdict.ratio)
    while len(batch) < asked.trials and (found := arms.ask()) is not None:
        arm, suggestion = found
        variant = make(arm.template, dict(suggestion.config))
        if variant != batch[0]:
            batch.append(variant)
    return batch


def _told(trial: TrialRow) -> Told:
    ratio = trial.measurement.ratio if trial.measurement else None
    config: Config = dict(trial.config)
    return Told(trial.template, config, ratio, failure.kind(trial.status, trial.message))
