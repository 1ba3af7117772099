"""``moetune audit``: measure the stored winners again, and say which hold: a gate for CI."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner import doctor
from tuner.cli import screen
from tuner.cli.commands.tune import check_memory
from tuner.cli.options import Model, db_option, json_option, optional_model_options, seconds
from tuner.report import words
from tuner.store.database import Database, path_to_read
from tuner.target import detect

if TYPE_CHECKING:
    from tuner.audit.claims import Claim, Finding
    from tuner.target.roofline import Limits

# Of the column of verdicts.
_WIDTH = 18
# Verdicts that are no success -> what the command ends with, the worst first; docs/commands.md has them.
EXIT_CODES = {"gone": 1, "slower": 1, "inconclusive": 3, "skipped": 4}


@click.command()
@optional_model_options
@click.option("--time", "time_s", type=seconds, metavar="90s|10m|1h", default="10m",
              show_default=True, help="Time for all of it; what does not fit is named.")  # fmt: skip
@db_option
@click.option("--allow", type=click.Choice(["inconclusive", "skipped"]), multiple=True,
              help="End with 0 in spite of such winners; may be given twice.")  # fmt: skip
@json_option
def audit(
    model: Model | None, time_s: float, db: Path | None, allow: tuple[str, ...], as_json: bool
) -> int:
    """Measure the stored winners of this machine again, cheapest first.

    Those of MODEL, or of all problems. Ends with 0 where all hold, 1 where one is slower than it was
    or gone, else 3 where one is inconclusive, else 4 where one was skipped.
    """
    from tuner.audit import audit as stage  # the rules of the finals bring the search's engine

    path = path_to_read(db)
    if not path.exists():
        screen.echo(
            "[]"
            if as_json
            else f"{path}: no database yet, hence 0 winners; `moetune tune` makes it"
        )
        return 0
    doctor.require_toolchain()

    def report(number: int, count: int, claim: Claim) -> None:
        name = claim.problem.name or claim.problem.describe()
        place = f"{words.counted(claim.workload.tokens, 'token')} {claim.workload.load}"
        progress.print(f"{number}/{count} {name}, {place}, about {words.clock(claim.cost_s)}")

    def measure(claim: Claim, ceilings: Limits | None) -> stage.Measured:
        check_memory(claim.problem, claim.target)
        return stage.remeasure(claim, ceilings)

    progress = screen.stderr()
    problem_id = model.problem.digest if model else None
    with Database(path) as database:
        findings = stage.audit(
            database, detect(), time_s, problem_id, report=report, measure=measure
        )
    if as_json:
        screen.echo(json.dumps([dataclasses.asdict(f) for f in findings], indent=2))
    else:
        _show(findings)
    return _exit_code({finding.verdict.value for finding in findings}, allow)


def _exit_code(verdicts: Collection[str], allow: Collection[str]) -> int:
    """The code of the worst verdict that is not allowed."""
    codes = [
        EXIT_CODES[verdict]
        for verdict in EXIT_CODES
        if verdict in verdicts and verdict not in allow
    ]
    return codes[0] if codes else 0


def _show(findings: Sequence[Finding]) -> None:
    out = screen.stdout()
    for finding in findings:
        first, *rest = _lines(finding)
        out.print(f"{finding.verdict.value:{_WIDTH}} {first}", soft_wrap=True)
        for line in rest:
            out.print(f"{'':{_WIDTH}} {line}", soft_wrap=True)
    counts = Counter(f.verdict.value for f in findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    out.print(
        f"{words.counted(len(findings), 'winner')}{': ' if told else ''}{told}", soft_wrap=True
    )


def _lines(finding: Finding) -> Iterator[str]:
    place = f"{words.counted(finding.tokens, 'token')} {finding.load}"
    yield f"{finding.problem}, {place}: {_winner(finding)}"
    if not finding.is_default:
        now = f", {_speed(finding.now)} now" if finding.now else ""
        yield f"{_speed(finding.then)} of the default's speed then{now}"
    elif finding.now:
        yield _runner_up(*finding.now)
    if finding.reason:
        yield finding.reason


def _runner_up(ratio: float, low: float, high: float) -> str:
    """How the nearest contender of a default does now: ratio is its time / the default's."""
    speed = words.times(*words.speed_up(ratio, low, high))
    if low <= 1 <= high:
        return f"runner-up is as fast as the winner: {speed} of its speed"
    apart = "slower" if ratio > 1 else "faster"
    return f"runner-up is {100 * abs(1 - 1 / ratio):.1f} % {apart} than the winner: {speed} of its speed"


def _winner(finding: Finding) -> str:
    """What the winner changes; of a default that won, what its contender would."""
    told = words.changed(finding.changes)
    if finding.is_default:
        return f"default, the runner-up {told}" if told else "default"
    return told or finding.winner


def _speed(ratio: tuple[float, float, float]) -> str:
    return words.times(*words.speed_up(*ratio))
