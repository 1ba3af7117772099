"""Claims: what a database says won here, made ready to be measured again.

A winner claims to be faster than the template's default, or where a session kept few variants no
slower; a default that won claims that nothing else is faster than was put up with. What can be told
without a measurement is told here: winners of another machine, and winners whose template is
another now.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tuner.codegen.compile import is_cached
from tuner.codegen.render import is_current, render
from tuner.errors import MoetuneError, SpaceError
from tuner.measure.race import FINAL_EFFORT, TRIAL_EFFORT
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.variant import Changes, Variant, changes, default_variant, make
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.target import Target, can_run
from tuner.tune.finals import PROCESSES

Row = Mapping[str, Any]


class AuditVerdict(StrEnum):
    """What an audit says of a winner."""

    HOLDS = "holds"
    LOST = "slower"
    GONE = "gone"
    UNSURE = "inconclusive"
    LEFT = "skipped"
    ELSEWHERE = "not of this machine"


@dataclass(frozen=True)
class Claim:
    """One winner and whom it is raced against: the default, or of a default the best other.

    Attributes:
        row: of the view ``best``.
        default, default_trial: the template's default and its trial, None where it is not recorded.
        other, other_trial: the winner, or where the default won the nearest contender; None where
            nothing else was timed.
        cost_s: what measuring it will take, from what its builds and measurements once took.
    """

    row: Row
    problem: Problem
    target: Target
    workload: Workload
    default: Variant
    default_trial: int | None
    other: Variant | None
    other_trial: int | None
    cost_s: float

    @property
    def is_default(self) -> bool:
        return bool(self.row["is_default"])

    @property
    def gain(self) -> float:
        """What the winner was surely faster by, as a share; 0 where it claims no more than not to lose.

        A session that keeps few variants lets one serve where it is no faster than the default.
        """
        return 1 / self.row["ratio"] - 1 if self.row["ratio_high"] < 1 else 0.0

    @property
    def regret(self) -> float:
        """The winner's time over that of the fastest, as a session that keeps few variants put up with."""
        return float(self.row["regret"] or 1.0)

    @property
    def changes(self) -> Changes:
        """In what the default and the other differ."""
        return changes(self.default.config, self.other.config) if self.other else {}


@dataclass(frozen=True)
class Finding:
    """What an audit says of one winner.

    Attributes:
        problem: its name, or what it is where it has none.
        winner, against: names of variants; ``against`` is empty where there was none.
        changes: parameter -> (default's value, the winner's or, where the default won, the contender's).
        then: ratio of times, winner / default, with its interval, as it was recorded.
        now: the same of this audit; where the default won, contender / default. None: not measured.
        cost_s: estimated before it was measured; 0 where it was not to be.
    """

    problem: str
    problem_id: str
    tokens: int
    load: str
    arch: str
    winner: str
    is_default: bool
    against: str
    verdict: AuditVerdict
    reason: str
    then: tuple[float, float, float]
    changes: Changes = field(default_factory=dict)
    now: tuple[float, float, float] | None = None
    cost_s: float = 0.0


def finding(row: Row, verdict: AuditVerdict, reason: str, **more: Any) -> Finding:
    """The Finding about a row of the view ``best``."""
    return Finding(
        problem=row["problem_name"] or Problem.from_key(row["problem"]).describe(),
        problem_id=row["problem_id"],
        tokens=row["tokens"],
        load=row["load"],
        arch=row["arch"],
        winner=row["variant"],
        is_default=row["is_default"],
        verdict=verdict,
        reason=reason,
        then=(row["ratio"], row["ratio_low"], row["ratio_high"]),
        **{"against": "", **more},
    )


def claims(
    db: Database, host: Target, problem_id: str | None = None
) -> tuple[list[Claim], list[Finding]]:
    """The claims that have to be measured, cheapest first, and what is known of the others."""
    open_claims: list[Claim] = []
    known: list[Finding] = []
    for row in db.best(problem_id=problem_id):
        target = Target.from_key({**row["target"], "name": row["target_name"]})
        if not is_here(target, host):
            known.append(finding(row, AuditVerdict.ELSEWHERE, f"tuned on {target.describe()}"))
            continue
        try:
            open_claims.append(_claim(db, row, target))
        except MoetuneError as error:  # the template, its space or the row is another now
            known.append(finding(row, AuditVerdict.GONE, str(error)))
    return sorted(open_claims, key=lambda claim: claim.cost_s), known


def is_here(target: Target, host: Target) -> bool:
    """Whether ``host`` is the machine of ``target``: with code for another architecture, or fewer of
    its cores, it is."""
    same = dataclasses.replace(host, arch=target.arch, features=target.features, cores=target.cores)
    return same == target and target.cores <= host.cores and can_run(host, target.features)


def _claim(db: Database, row: Row, target: Target) -> Claim:
    problem = Problem.from_key(row["problem"], name=row["problem_name"])
    workload = Workload(row["tokens"], row["load"])
    made_by = row["environment"].get("template", "")
    variant = make(row["template"], row["config"])
    winner = _still_there(problem, variant, row["source_digest"], made_by)
    default = default_variant(problem, target, tokens=workload.tokens)
    trials = db.trials(row["problem_id"], row["target_id"], workload.tokens, workload.load)
    by_id = {trial.id: trial for trial in trials}
    of_default = [trial for trial in trials if trial.variant_id == default.id]
    other: Variant | None = winner
    of_other: TrialRow | None = by_id[row["trial_id"]]
    if row["is_default"]:
        if winner.id != default.id:
            raise SpaceError(f"the template's default is another now: {default.name}")
        of_default = [by_id[row["trial_id"]]]
        other, of_other = _contender(problem, trials, by_id[row["trial_id"]])
    raced = [(default, of_default[-1] if of_default else None), (other, of_other)]
    return Claim(
        row=row,
        problem=problem,
        target=target,
        workload=workload,
        default=default,
        default_trial=of_default[-1].id if of_default else None,
        other=other,
        other_trial=of_other.id if of_other else None,
        cost_s=sum(_cost_s(problem, target, v, trial) for v, trial in raced if v),
    )


def _still_there(problem: Problem, variant: Variant, digest: str, made_by: str) -> Variant:
    """The variant, by the digests of source and template that are stored. Raises a MoetuneError where its
    source is another now."""
    if not is_current(problem, variant, digest, made_by):
        now = render(problem, variant).digest
        raise SpaceError(
            f"the template changed: its source was {digest or 'not recorded'}, it is {now} now"
        )
    return variant


def _contender(
    problem: Problem, trials: Iterable[TrialRow], winner: TrialRow
) -> tuple[Variant, TrialRow] | tuple[None, None]:
    """The best other trial that can still be built; those of the finals are known best."""
    timed = [
        (trial, trial.final)
        for trial in trials
        if trial.status == "ok" and trial.variant_id != winner.variant_id and trial.final
    ]
    warmth = winner.final.temperature if winner.final else ""
    alike = [(t, m) for t, m in timed if m.ratio is not None and m.temperature == warmth]
    alike.sort(key=lambda pair: (pair[1].kind != "final", pair[1].ratio))
    for trial, _ in alike:
        try:
            variant = make(trial.template, trial.config)
            made_by = trial.environment.get("template", "")
            variant = _still_there(problem, variant, trial.source_digest, made_by)
        except MoetuneError:  # the next one may still be there
            continue
        return variant, trial
    return None, None


def _cost_s(problem: Problem, target: Target, variant: Variant, trial: TrialRow | None) -> float:
    """A build unless it is cached, a verification, and a share of the final races."""
    if trial is None:
        return 0.0
    races = PROCESSES * FINAL_EFFORT.budget_s / TRIAL_EFFORT.budget_s
    cost_ms = (trial.verify_ms or 0.0) + races * (trial.benchmark_ms or 0.0) / 2
    if not is_cached(render(problem, variant).text, target):
        cost_ms += trial.compile_ms or 0.0
    return float(cost_ms) / 1e3
