"""Held out: what a session's choice loses on workloads that it did not tune."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from tuner.measure.bench import Entrant, Timing
from tuner.measure.race import Effort
from tuner.problem.workload import Workload
from tuner.select.select import best_config
from tuner.select.selection import Selection
from tuner.space.variant import Variant, default_variant, make
from tuner.tune.result import HeldOut
from tuner.tune.session import Session

EFFORT = Effort(budget_s=4.0, first_rounds=9, least_rounds=9, precision=0.005)


class Reporter(Protocol):
    """Who tells where the session stands."""

    def report(self, stage: str, note: str) -> None: ...


def check(session: Session, cell: Reporter, finalists: Sequence[Variant]) -> Iterator[HeldOut]:
    """For each workload held out: the choice of `tuner.select.select` against the fastest finalist there.

    Nothing of it is stored as a trial: these workloads stay untuned.
    """
    for workload in session.plan.held_out:
        cell.report("held out", f"{workload.tokens} tokens, {workload.load}")
        yield _check(session, workload, finalists)


def _check(session: Session, workload: Workload, finalists: Sequence[Variant]) -> HeldOut:
    chosen = best_config(
        session.problem, workload.tokens, workload.load, session.target, session.database,
        session.pack, compiler=session.surroundings["toolchain"], installed=True,
    )  # fmt: skip
    winner = make(chosen.template, chosen.config)
    default = default_variant(session.problem, session.target, tokens=workload.tokens)
    variants = list({v.id: v for v in (default, winner, *finalists)}.values())
    right = [v for v in variants if _is_right(session, v, workload)]
    entrants = [_entrant(session, v) for v in right]
    timing = session.worker.race(entrants, workload, EFFORT, session.plan.temperature)
    return _outcome(workload, chosen, timing, [v.name for v in right])


def _outcome(workload: Workload, chosen: Selection, timing: Timing, names: list[str]) -> HeldOut:
    race = timing.race
    fastest = min(range(len(names)), key=lambda i: race.ratio(i).value)
    winner = names.index(chosen.variant)
    regret = race.ratio(winner, fastest)
    return HeldOut(
        workload=workload,
        winner=chosen.variant,
        match=chosen.match,
        best=names[fastest],
        ratio=race.ratio(winner).value,
        regret=max(1.0, regret.value),
        regret_low=regret.low,
        regret_high=regret.high,
    )


def _entrant(session: Session, variant: Variant) -> Entrant:
    built = session.builder.get(variant)
    assert built.binary is not None
    return Entrant.of(variant, built.binary.path)


def _is_right(session: Session, variant: Variant, workload: Workload) -> bool:
    return session.worker.verify(_entrant(session, variant), workload.tokens).ok
