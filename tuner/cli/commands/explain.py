"""``moetune explain``: how a best row was found, and the evidence for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from tuner.cli import screen
from tuner.cli.options import (
    Model,
    db_option,
    json_option,
    load_option,
    model_options,
    target_option,
)
from tuner.host.interference import FOREIGN_LIMIT
from tuner.problem.workload import Workload
from tuner.report import words
from tuner.store.reading import reading
from tuner.target import named

if TYPE_CHECKING:
    from tuner.report.explain import (
        Account,
        ComparableTrials,
        Contender,
        Explanation,
        Roofline,
        Winner,
    )
    from tuner.report.importance import Importances

_CONTENDERS = ("> speed / default's", "measured", "status", "differs in")
# Importances below this share are not named one by one.
_LEAST_SHARE = 0.01


@click.command()
@model_options
@click.option("--tokens", type=click.IntRange(min=0), required=True, help="Tokens of one call.")
@load_option
@target_option
@db_option
@json_option
def explain(
    model: Model, tokens: int, load: str, target: str, db: Path | None, as_json: bool
) -> None:
    """Say how the best kernel was found, and what it beat."""
    from tuner.report.explain_best import explain_best  # importances bring the search's engine

    with reading(db) as database:
        told = explain_best(model.problem, Workload(tokens, load), named(target), database)
    if as_json:
        screen.echo(json.dumps(told.to_json(), indent=2, allow_nan=False))
        return
    out = screen.stdout()
    out.print(model.problem.describe(), soft_wrap=True)
    for name, text in _lines(told):
        out.print(f"{name:11} {text}", soft_wrap=True)
    for title, contenders in _lists(told):
        out.print(f"\n{title}", soft_wrap=True)
        if contenders:
            out.print(_table(contenders))


def _lines(told: Explanation) -> Iterator[tuple[str, str]]:
    yield (
        "workload",
        f"{words.counted(told.workload.tokens, 'token')}, {told.workload.load}, on {told.target.describe()}",
    )
    if told.source == "shipped":
        yield "source", f"moetune brings it: {told.reason}"
    if told.winner is None:
        yield "winner", "none yet: the finals were not run; the same `moetune tune` goes on"
    else:
        yield from _winner(told.winner, told.found.trials)
    if told.account:
        yield "session", _account(told.account)
    yield from _search(told.found)
    if told.roofline:
        yield "roofline", ", ".join(_roofline(told.roofline))
    yield "importances", _importances(told.importances)


def _winner(winner: Winner, trials: int) -> Iterator[tuple[str, str]]:
    yield "winner", winner.variant
    yield "differs", _difference(winner)
    yield (
        "found",
        (
            f"trial {winner.position} of {trials}, {winner.found}, session {winner.session or 'not named'}; "
            f"recorded as the winner {winner.recorded}"
        ),
    )
    median = f"median {words.duration(winner.median_ns)} {winner.temperature}".strip()
    if winner.is_default:
        yield "reference", f"all others were timed against it; {median}"
    else:
        speed = words.times(*words.speed_up(winner.ratio, winner.ratio_low, winner.ratio_high))
        yield "paired", f"{speed} of the default's speed in {winner.pairs} pairs; {median}"
    if winner.regret is not None and winner.regret > 1:
        yield (
            "regret",
            (
                f"{100 * (winner.regret - 1):.1f}% over the fastest here: a tie, or what keeping few costs"
            ),
        )
    for audit in winner.audits:
        yield (
            "audited",
            f"{audit.created}: {_speed(audit.ratio, audit.ratio_low, audit.ratio_high)}",
        )


def _difference(winner: Winner) -> str:
    if winner.is_default:
        return (
            "in nothing: the template's default won; no candidate was faster by more than the noise"
        )
    if winner.changes is None:
        return "the default that it was paired with is not recorded"
    return words.changed(winner.changes)


def _search(found: ComparableTrials) -> Iterator[tuple[str, str]]:
    counts = ", ".join(f"{count} {name}" for name, count in sorted(found.statuses.items()))
    sessions = "1 session" if found.sessions == 1 else f"{found.sessions} sessions"
    left_out = "; left out: {} of another compiler, template or temperature of the weights"
    yield (
        "search",
        (
            f"{found.trials} trials in {sessions}: {counts}"
            f"{left_out.format(found.left_out) if found.left_out else ''}"
        ),
    )
    work = found.compile_s + found.verify_s + found.benchmark_s
    yield (
        "took",
        (
            f"{words.clock(work)} of work (compile {words.clock(found.compile_s)}, verify "
            f"{words.clock(found.verify_s)}, timing {words.clock(found.benchmark_s)}), "
            f"trials from {found.first} to {found.last}"
        ),
    )


def _account(account: Account) -> str:
    workloads = "1 workload" if account.workloads == 1 else f"{account.workloads} workloads"
    foreign = account.foreign or 0.0
    loaded = f"; the machine was loaded: others took {words.percent(foreign)} of it"
    return (
        f"{account.session} searched {workloads} in {words.clock(account.search_s)}, "
        f"{account.per_minute:.1f} variants a minute; noise floor here {100 * account.noise_floor:.1f}%"
        f"{loaded if foreign > FOREIGN_LIMIT else ''}"
    )


def _roofline(roofline: Roofline) -> Iterator[str]:
    yield f"{roofline.gflop_s:.1f} GFLOP/s"
    yield f"{roofline.gb_s:.1f} GB/s"
    yield f"{roofline.intensity:.2f} FLOP/byte"
    yield (
        f"ridge at {roofline.ridge:.2f} ({roofline.compute} {roofline.compute_gflop_s:.1f} GFLOP/s, "
        f"read {roofline.read_gb_s:.1f} GB/s)"
    )
    if roofline.fraction is not None:
        yield words.share_of(roofline.binds, roofline.fraction)
        if roofline.fraction > 1:
            yield "more than the ceiling: it was measured on a busy machine"
    if (roofline.binds == "read") != (roofline.intensity < roofline.ridge):
        yield (
            f"{roofline.binds} counts although {roofline.intensity:.2f} FLOP/byte lie on the other side of the "
            "ridge: weights were in a cache, or the probe beside the race found other rates"
        )


def _importances(found: Importances) -> str:
    if found.too_few:
        return f"too few trials were timed to tell ({found.trials})"
    if not found.values:
        return "no parameter took two values"
    named = [f"{n} {words.percent(v)}" for n, v in found.values.items() if v >= _LEAST_SHARE]
    rest = len(found.values) - len(named)
    named += [f"{rest} others below {words.percent(_LEAST_SHARE)}"] if rest else []
    best = words.percent(found.best_share)
    return f"{', '.join(named)} (PED-ANOVA, best {best} of {found.trials} timed trials)"


def _lists(told: Explanation) -> Iterator[tuple[str, Sequence[Contender]]]:
    if told.winner is not None:
        near = told.neighbours
        count = f"{len(near)} of them" if near else "none was tried"
        yield f"Neighbours that lost, one parameter away from the winner: {count}", near
    others = told.contenders
    title = "Nearest contenders" if told.winner else "Fastest so far"
    yield f"{title}{'' if others else ': nothing else was timed'}", others


def _table(contenders: Sequence[Contender]) -> Table:
    """One row each; with what went wrong where anything did."""
    columns = (*_CONTENDERS, "why") if any(c.message for c in contenders) else _CONTENDERS
    return screen.table(columns, [_row(c)[: len(columns)] for c in contenders])


def _row(contender: Contender) -> tuple[str, ...]:
    return (
        _speed(contender.ratio, contender.ratio_low, contender.ratio_high),
        contender.kind,
        contender.status,
        words.changed(contender.changes),
        contender.message,
    )


def _speed(ratio: float | None, low: float | None, high: float | None) -> str:
    """A ratio of times as one of speeds; above 1 is faster than the default."""
    if ratio is None or low is None or high is None:
        return ""
    return words.times(*words.speed_up(ratio, low, high))
