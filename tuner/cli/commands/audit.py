"""``moetune audit``: measure the stored winners again, and say which no longer hold."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
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
_WIDTH = 22


@click.command()
@optional_model_options
@click.option("--time", "time_s", type=seconds, metavar="90s|10m|1h", default="10m",
              show_default=True, help="Time for all of it; what does not fit is named.")  # fmt: skip
@db_option
@json_option
def audit(model: Model | None, time_s: float, db: Path | None, as_json: bool) -> int:
    """Measure the stored winners of this machine again, cheapest first.

    Those of MODEL, or of all problems. Ends with 1 where a winner no longer holds or is gone.
    """
    from tuner.audit import audit as stage
    from tuner.audit.claims import AuditVerdict  # the rules of the finals bring the search's engine

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
        place = f"{claim.workload.tokens} tokens {claim.workload.load}"
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
    return int(any(f.verdict in (AuditVerdict.LOST, AuditVerdict.GONE) for f in findings))


def _show(findings: Sequence[Finding]) -> None:
    out = screen.stdout()
    for finding in findings:
        first, *rest = _lines(finding)
        out.print(f"{finding.verdict.value:{_WIDTH}} {first}", soft_wrap=True)
        for line in rest:
            out.print(f"{'':{_WIDTH}} {line}", soft_wrap=True)
    counts = Counter(f.verdict.value for f in findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    out.print(f"{len(findings)} winners{': ' if told else ''}{told}", soft_wrap=True)


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.problem}, {finding.tokens} tokens {finding.load}: {_winner(finding)}"
    if not finding.is_default:
        now = f", {_speed(finding.now)} now" if finding.now else ""
        yield f"{_speed(finding.then)} of the default's speed then{now}"
    elif finding.now:
        yield f"the contender has {_speed(finding.now)} of the default's speed now"
    if finding.reason:
        yield finding.reason


def _winner(finding: Finding) -> str:
    """What the winner changes; of a default that won, what its contender would."""
    told = words.changed(finding.changes)
    if finding.is_default:
        return f"default, its contender {told}" if told else "default"
    return told or finding.winner


def _speed(ratio: tuple[float, float, float]) -> str:
    return words.times(*words.speed_up(*ratio))
