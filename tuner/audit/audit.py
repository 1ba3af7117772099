"""Audit: do the stored winners of this machine still win?

Each is built again, verified, and raced as in the finals of a session: paired with the template's
default, in fresh processes, beside a copy of the default that tells the noise. A default that won is
raced against the nearest contender that is stored.
What was measured is kept as measurements of kind ``audit``; winners are never changed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.audit.claims import AuditVerdict, Claim, Finding, claims, finding
from tuner.errors import KernelError, UsageError
from tuner.host.interference import FOREIGN_LIMIT
from tuner.host.toolchain import toolchain_version
from tuner.measure import trial as trials
from tuner.measure.bench import Entrant, Timing
from tuner.measure.metrics import measurement
from tuner.measure.race import FINAL_EFFORT
from tuner.measure.worker import Worker, WorkerCrash, WorkerTimeout
from tuner.space.failure import kind
from tuner.space.variant import Variant
from tuner.store.database import Database
from tuner.target import Target
from tuner.target.roofline import Ceilings, Limits
from tuner.tune.builder import split_cores
from tuner.tune.finals import PROCESSES
from tuner.tune.verdicts import entries, floor_of, joined

# A session's own seeds are small numbers.
AUDIT_SEED = 1_000_000
# A variant that was refused, crashed or was wrong is gone; of one that took too long, or found too
# little memory, nobody can tell.
_GONE = ("compile", "crash", "wrong")
# Under a noise floor above this, a share, nothing holds.
MOST_FLOOR = 0.1


@dataclass(frozen=True)
class Measured:
    """The races of one claim, or what stood in their way.

    Attributes:
        parts: one race per process: the default, the other variant if there is one, and last the
            sentinel, a copy of the default.
        ceilings: of the machine, for the rows; there where the races are.
        status, message: as of a trial, where no race could be run.
        culprit: the variant that this is about; None where it may be either.
        toolchain: the compiler's version.
    """

    parts: tuple[Timing, ...] = ()
    ceilings: Limits | None = None
    status: str = "ok"
    message: str = ""
    culprit: Variant | None = None
    toolchain: str = ""


Measure = Callable[[Claim, Limits | None], Measured]
Report = Callable[[int, int, Claim], None]


def audit(
    db: Database,
    host: Target,
    time_s: float,
    problem_id: str | None = None,
    *,
    report: Report,
    measure: Measure,
    clock: Callable[[], float] = time.monotonic,
) -> list[Finding]:
    """Measure the winners again, cheapest first, and say what became of each.

    Those whose estimated cost exceeds what is left of ``time_s`` are named as left. ``report`` is told
    the number, the count and the claim before each; ``measure`` is ``remeasure``, or wraps it. A
    UsageError of it (too little memory, say) is told and goes on to the next.

    Raises:
        CompileError: the toolchain is missing, or the cache cannot be written.
        DatabaseError: what was measured cannot be stored.
    """
    start = clock()
    waiting, findings = claims(db, host, problem_id)
    for number, claim in enumerate(waiting, start=1):
        left = time_s - (clock() - start)
        if claim.cost_s > left:
            reason = f"{claim.cost_s:.0f} s needed, {max(left, 0):.0f} s left"
            findings.append(_of(claim, AuditVerdict.LEFT, reason))
            continue
        report(number, len(waiting), claim)
        findings.append(_audited(db, claim, measure))
    return findings


def _audited(db: Database, claim: Claim, measure: Measure) -> Finding:
    try:
        measured = measure(claim, _stored_ceilings(db, claim.row["target_id"]))
    except UsageError as error:  # it does not fit this machine's memory at the moment
        return _of(claim, AuditVerdict.UNSURE, str(error))
    if measured.status != "ok":
        return _failed(claim, measured)
    _record(db, claim, measured)
    verdict, reason = judge(claim, measured.parts)
    then = claim.row["environment"].get("toolchain", "")
    if then and then != measured.toolchain:
        reason = "; ".join(filter(None, [reason, f"{then} then, {measured.toolchain} now"]))
    return _of(claim, verdict, reason, measured.parts)


def _failed(claim: Claim, measured: Measured) -> Finding:
    what = f"{measured.status}: {measured.message}"
    culprit = measured.culprit
    if kind(measured.status, measured.message) not in _GONE or culprit is None:
        return _of(claim, AuditVerdict.UNSURE, what)
    if culprit.id == claim.row["variant_id"]:
        return _of(claim, AuditVerdict.GONE, what)
    if claim.is_default:
        return _of(claim, AuditVerdict.HOLDS, f"verified; its contender is gone: {what}")
    return _of(claim, AuditVerdict.UNSURE, f"the default fails: {what}")


def _of(claim: Claim, verdict: AuditVerdict, reason: str, parts: Sequence[Timing] = ()) -> Finding:
    rival = claim.other if claim.is_default else claim.default
    ratio = joined(parts).race.ratio(1) if parts and claim.other else None
    return finding(
        claim.row,
        verdict,
        reason,
        against=rival.name if rival else "",
        changes=claim.changes,
        now=(ratio.value, ratio.low, ratio.high) if ratio else None,
        cost_s=claim.cost_s,
    )


def _record(db: Database, claim: Claim, measured: Measured) -> None:
    """Store what was measured with the trials it is about; a default without a trial has no place."""
    assert measured.ceilings is not None
    timing, target_id = joined(measured.parts), claim.row["target_id"]
    with db.transaction():
        for limit in measured.ceilings.rows():
            if limit[0] not in db.ceilings(target_id):
                db.set_ceiling(target_id, *limit)
        for kernel, trial_id in enumerate((claim.default_trial, claim.other_trial)):
            if trial_id is not None:
                row = measurement(
                    timing, kernel, measured.ceilings, claim.target, claim.problem, "audit"
                )
                db.record_measurement(trial_id, row)


def _stored_ceilings(db: Database, target_id: str) -> Ceilings | None:
    stored = {name: row.value for name, row in db.ceilings(target_id).items()}
    if not {"fma", "read"} <= stored.keys():
        return None
    return Ceilings(stored["fma"], stored["read"], stored.get("dot", 0.0))


def judge(claim: Claim, parts: Sequence[Timing]) -> tuple[AuditVerdict, str]:
    """The verdict on a claim from its races, and why.

    Who wins is decided by the rule of the finals (``tuner.tune.verdicts``), with the noise floor that the
    sentinel tells now. A winner no longer holds when its whole interval lies above that floor, if its
    gain was larger than the floor, so that it could have been told; one that claimed no gain, when it is
    surely slower. A default no longer holds when the contender is faster than was put up with. Under a noise
    floor above MOST_FLOOR what was not found slower is inconclusive.
    """
    if claim.other is None:
        return AuditVerdict.HOLDS, "verified; nothing else was timed that it could be raced against"
    race = joined(parts).race
    ratio, floor = race.ratio(1), floor_of(race.ratio(2))
    wins = entries(parts, [claim.default, claim.other], floor)[1].proven
    reason = f"noise floor {100 * floor:.1f} %"
    if claim.is_default:
        lost, holds = wins and 1 / ratio.value > claim.regret * (1 + floor), True
    elif claim.gain:
        lost, holds = ratio.low > 1 / (1 + floor) and floor < claim.gain, wins
    else:
        lost, holds = ratio.low > 1 + floor, True
    if lost and race.foreign > FOREIGN_LIMIT:
        return (
            AuditVerdict.UNSURE,
            f"other processes took {100 * race.foreign:.0f} % of the machine, {reason}",
        )
    if lost:
        return AuditVerdict.LOST, reason
    if floor > MOST_FLOOR:  # that nothing is slower by more than this is no evidence
        return AuditVerdict.UNSURE, f"{reason}: run it again on a quiet machine"
    return (AuditVerdict.HOLDS if holds else AuditVerdict.UNSURE), reason


def remeasure(claim: Claim, ceilings: Limits | None) -> Measured:
    """Build, verify and race a claim's variants; the ceilings are measured where none are given."""
    pairs = []
    for variant in (claim.default, *([claim.other] if claim.other else [])):
        built = trials.build(claim.problem, claim.target, variant)
        if built.binary is None:
            culprit = None if built.passing else variant
            return Measured(status=built.status, message=built.message, culprit=culprit)
        pairs.append((variant, Entrant.of(variant, built.binary.path)))
    with tempfile.TemporaryDirectory(prefix="moetune-") as folder:
        twin = Path(folder) / "twin.so"
        shutil.copyfile(pairs[0][1].path, twin)  # a library of its own
        entrants = [*(entrant for _, entrant in pairs), Entrant.of(claim.default, twin)]
        return _raced(claim, pairs, entrants, ceilings)


def _raced(
    claim: Claim,
    pairs: Sequence[tuple[Variant, Entrant]],
    entrants: list[Entrant],
    ceilings: Limits | None,
) -> Measured:
    """Verified in the first process, raced in each."""
    cores = split_cores(claim.target.cores)
    pinned = cores.measuring if cores.spare else None
    parts: list[Timing] = []
    try:
        while len(parts) < PROCESSES:
            # Other weights and tokens than a session's, and others in each process.
            seed = AUDIT_SEED + len(parts)
            with Worker(claim.problem, claim.target, seed, cores=pinned) as worker:
                if not parts and (failure := _verified(worker, claim, pairs)):
                    return failure
                ceilings = ceilings or worker.ceilings()
                parts.append(_race(worker, claim, entrants))
    except WorkerTimeout as error:
        return Measured(status="timeout", message=str(error))
    except (WorkerCrash, KernelError) as error:
        return Measured(status="crash", message=str(error))
    return Measured(tuple(parts), ceilings, toolchain=toolchain_version())


def _verified(
    worker: Worker, claim: Claim, pairs: Sequence[tuple[Variant, Entrant]]
) -> Measured | None:
    """The first variant that is not right; None where all are."""
    for variant, entrant in pairs:
        try:
            verdict = worker.verify(entrant, claim.workload.tokens)
        except WorkerTimeout as error:
            return Measured(status="timeout", message=str(error), culprit=variant)
        except (WorkerCrash, KernelError) as error:
            return Measured(status="crash", message=str(error), culprit=variant)
        if not verdict.ok:
            return Measured(status="wrong", message=verdict.message, culprit=variant)
    return None


def _race(worker: Worker, claim: Claim, entrants: list[Entrant]) -> Timing:
    temperature = claim.row["temperature"] or "auto"
    return worker.race(entrants, claim.workload, FINAL_EFFORT, temperature)
