"""Explain: how the best row of one workload was found, and what stands behind it.

Everything is read from the database: the trials of that very workload, its winner, the ceilings of
its target. Nothing is measured, compiled or rendered.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.errors import DatabaseError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report.importance import Importances, importances
from tuner.space.variant import Changes, changes
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow
from tuner.target import Target
from tuner.target.roofline import multiplies_pairs

# Contenders to name: as many as were in the finals, and a few more.
MOST_CONTENDERS = 5


@dataclass(frozen=True)
class ComparableTrials:
    """The trials of a workload that can be compared with each other.

    Attributes:
        statuses: how many trials ended in which status.
        left_out: trials of another compiler, template or temperature of the weights.
        first, last: when the first and the last were recorded, UTC.
        compile_s, verify_s, benchmark_s: sums over the trials; a build that was taken from the cache
            counts with what it once took.
    """

    statuses: dict[str, int]
    left_out: int
    sessions: int
    first: str
    last: str
    compile_s: float
    verify_s: float
    benchmark_s: float

    @property
    def trials(self) -> int:
        return sum(self.statuses.values())


@dataclass(frozen=True)
class Contender:
    """A variant that did not win.

    Attributes:
        changes: parameter -> (value in the winner, or in the default where nothing won yet; value here).
        ratio, ratio_low, ratio_high: time / the default's in the same race; None where it failed.
        kind: of that measurement, ``final`` or ``trial``; empty where it failed.
    """

    variant: str
    status: str
    message: str
    changes: Changes
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    kind: str


@dataclass(frozen=True)
class Audit:
    """What an audit measured later: time / the default's."""

    created: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


@dataclass(frozen=True)
class Winner:
    """The best row and how it was found.

    Attributes:
        changes: parameter -> (default's value, winner's); None where the default is not recorded.
        position: its trial's number among the comparable ones, from 1.
        found, recorded: when its trial was recorded, and when it won, UTC.
        ratio, ratio_low, ratio_high: time / the default's in the finals, paired; 1 for the default.
        pairs: samples behind the ratio.
        regret: time / that of the fastest here, which a session that keeps few variants put up with;
            None where it is not recorded.
    """

    variant: str
    default: str | None
    is_default: bool
    changes: Changes | None
    position: int
    session: str
    found: str
    recorded: str
    ratio: float
    ratio_low: float
    ratio_high: float
    pairs: int
    regret: float | None
    median_ns: float
    temperature: str
    audits: tuple[Audit, ...]


@dataclass(frozen=True)
class Account:
    """What the session that recorded the winner says of itself.

    Attributes:
        workloads: how many it tuned.
        search_s: its search of all of them, by the clock.
        per_minute: variants from compiler to verdict in a minute.
        noise_floor: of this workload, as a share: gains below it were not told from noise.
        foreign: the share of the machine that other processes took in the finals; None: not known.
    """

    session: str
    workloads: int
    search_s: float
    per_minute: float
    noise_floor: float
    foreign: float | None = None


@dataclass(frozen=True)
class Roofline:
    """Where the winner stands under the target's ceilings.

    Attributes:
        intensity: operations per byte that has to be moved.
        compute, compute_gflop_s: the ceiling of operations that the problem may use.
        read_gb_s: the ceiling of reads from memory.
        ridge: the intensity from which on operations bind (compute / read).
        binds: the ceiling that the fraction is of, as it was found in the race. It can be another than
            the ridge says: weights that stay in the last cache don't count as read, and the race goes
            by the rates that were probed beside it.
        fraction: of the speed that this ceiling allows at best.

    Williams, Waterman and Patterson 2009, https://doi.org/10.1145/1498765.1498785.
    """

    gflop_s: float
    gb_s: float
    intensity: float
    compute: str
    compute_gflop_s: float
    read_gb_s: float
    ridge: float
    binds: str
    fraction: float | None


@dataclass(frozen=True)
class Explanation:
    """All there is to say about one workload; ``winner`` is None until the finals were run. Of a winner that
    moetune brings, ``source`` is shipped and ``reason`` says how it fits what was asked."""

    problem: Problem
    target: Target
    workload: Workload
    found: ComparableTrials
    winner: Winner | None
    account: Account | None
    importances: Importances
    neighbours: tuple[Contender, ...]
    contenders: tuple[Contender, ...]
    roofline: Roofline | None
    source: str = "database"
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them; problem and target as their keys."""
        values = dataclasses.asdict(self)
        told = {"problem": self.problem.key, "name": self.problem.name, "target": self.target.key}
        return told | {name: value for name, value in values.items() if name not in told}


def explain(problem: Problem, workload: Workload, target: Target, db: Database) -> Explanation:
    """What the database knows of this very workload, on this very target.

    Raises:
        DatabaseError: it has no trial; the message lists the workloads that have some.
    """
    keys = (problem.digest, target.digest)
    rows = db.trials(*keys, workload.tokens, workload.load)
    if not rows:
        raise DatabaseError(_nothing(problem, workload, target, db))
    best = next(iter(db.best(*keys, workload.tokens, workload.load)), None)
    pivot = db.trial(best["trial_id"]) if best else rows[-1]
    same = [row for row in rows if _comparable(row, pivot)]
    same.sort(key=lambda row: (row.created, row.id))
    latest = {row.variant_id: row for row in same}
    default = latest.get(_default_id(db, best, same))
    centre = pivot if best else default
    others = [row for row in latest.values() if centre is None or row.id != centre.id]
    contenders = [_contender(row, centre) for row in others]
    return Explanation(
        problem=problem,
        target=target,
        workload=workload,
        found=_found(same, len(rows) - len(same)),
        winner=_winner(best, pivot, default, same) if best else None,
        account=_account(best, db) if best else None,
        importances=importances(_samples(latest.values())),
        neighbours=_neighbours(contenders) if best else (),
        contenders=_nearest(contenders),
        roofline=_roofline(best, problem, target, db) if best else None,
    )


def _nothing(problem: Problem, workload: Workload, target: Target, db: Database) -> str:
    won = {_cell(row) for row in db.best(problem.digest)}
    told = [
        f"{row['tokens']} tokens {row['load']} on {row['arch']}"
        f"{'' if row['target_id'] == target.digest else ' of another machine'}"
        f" ({row['trials']} trials{'' if _cell(row) in won else ', no winner yet'})"
        for row in db.workloads()
        if row["problem_id"] == problem.digest
    ]
    there = (
        f"there are: {'; '.join(told)}; ask for one of these"
        if told
        else "nothing of it was tuned here"
    )
    return (
        f"{problem.name or problem.digest}: no trial at {workload.tokens} tokens, load {workload.load}, on "
        f"{target.arch} in {db.path}; {there}, or run `moetune tune`"
    )


def _cell(row: Mapping[str, Any]) -> tuple[str, int, str]:
    return row["target_id"], row["tokens"], row["load"]


def _comparable(row: TrialRow, pivot: TrialRow) -> bool:
    """Whether two trials are of the same compiler, template and temperature of the weights."""
    made = [
        (r.template, r.environment.get("toolchain"), r.environment.get("template"))
        for r in (row, pivot)
    ]
    warmth = {r.final.temperature for r in (row, pivot) if r.final}
    return made[0] == made[1] and set(row.config) == set(pivot.config) and len(warmth) < 2


def _default_id(db: Database, best: Mapping[str, Any] | None, same: Sequence[TrialRow]) -> str:
    """The variant that the others were paired with: the winner's, else the first one of the search."""
    if best is None:
        return same[0].variant_id
    return "" if best["default_trial_id"] is None else db.trial(best["default_trial_id"]).variant_id


def _found(rows: Sequence[TrialRow], left_out: int) -> ComparableTrials:
    return ComparableTrials(
        statuses=dict(Counter(row.status for row in rows)),
        left_out=left_out,
        sessions=len({row.session for row in rows}),
        first=rows[0].created,
        last=rows[-1].created,
        compile_s=sum(row.compile_ms or 0.0 for row in rows) / 1e3,
        verify_s=sum(row.verify_ms or 0.0 for row in rows) / 1e3,
        benchmark_s=sum(row.benchmark_ms or 0.0 for row in rows) / 1e3,
    )


def _winner(
    best: Mapping[str, Any], row: TrialRow, default: TrialRow | None, same: Sequence[TrialRow]
) -> Winner:
    return Winner(
        variant=row.variant,
        default=default.variant if default else None,
        is_default=best["is_default"],
        changes=changes(default.config, row.config) if default else None,
        position=1 + [other.id for other in same].index(row.id),
        session=row.session,
        found=row.created,
        recorded=best["created"],
        ratio=best["ratio"],
        ratio_low=best["ratio_low"],
        ratio_high=best["ratio_high"],
        pairs=best["sample_count"] or 0,
        regret=best["regret"],
        median_ns=best["median_ns"],
        temperature=best["temperature"] or "",
        audits=tuple(Audit(a.created, a.ratio, a.ratio_low, a.ratio_high) for a in row.audits),
    )


def _account(best: Mapping[str, Any], db: Database) -> Account | None:
    """Of the first session that ended after the winner was recorded; an imported winner has none."""
    for session in db.sessions(best["problem_id"], best["target_id"]):
        for cell in session.data["cells"]:
            here = (cell["workload"]["tokens"], cell["workload"]["load"])
            if session.created >= best["created"] and here == (best["tokens"], best["load"]):
                return Account(
                    session=session.id,
                    workloads=len(session.data["cells"]),
                    search_s=session.data.get("pace", {}).get("search_s", 0.0),
                    per_minute=session.data.get("per_minute", 0.0),
                    noise_floor=cell.get("noise_floor", 0.0),
                    foreign=best["foreign_share"],
                )
    return None


def _contender(row: TrialRow, centre: TrialRow | None) -> Contender:
    measured: MeasurementRow | None = row.final
    return Contender(
        variant=row.variant,
        status=row.status,
        message=row.message,
        changes=changes(centre.config, row.config) if centre else {},
        ratio=measured.ratio if measured else None,
        ratio_low=measured.ratio_low if measured else None,
        ratio_high=measured.ratio_high if measured else None,
        kind=measured.kind if measured else "",
    )


def _neighbours(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """Those one parameter away: by parameter, then by how fast they are, failed ones last."""
    near = [c for c in contenders if len(c.changes) == 1]
    return tuple(sorted(near, key=lambda c: (list(c.changes), c.ratio is None, c.ratio or 0.0)))


def _nearest(contenders: Sequence[Contender]) -> tuple[Contender, ...]:
    """The fastest of the others; what was in the finals is known best and comes first."""
    timed = [c for c in contenders if c.ratio is not None]
    timed.sort(key=lambda c: (c.kind != "final", c.ratio or 0.0))
    return tuple(timed[:MOST_CONTENDERS])


def _samples(rows: Iterable[TrialRow]) -> list[tuple[Mapping[str, int], float]]:
    """Configurations that were timed, with their ratio in the search."""
    timed = ((row.config, row.measurement.ratio) for row in rows if row.measurement)
    return [(config, ratio) for config, ratio in timed if ratio]


def _roofline(
    best: Mapping[str, Any], problem: Problem, target: Target, db: Database
) -> Roofline | None:
    """None where rates or ceilings are not recorded."""
    gflop_s, gb_s = best["gflop_s"], best["gb_s"]
    limits = _limits(best, target, db)
    compute = "dot" if multiplies_pairs(problem, target) and "dot" in limits else "fma"
    if not gflop_s or not gb_s or not all(limits.get(name) for name in (compute, "read")):
        return None
    return Roofline(
        gflop_s=gflop_s,
        gb_s=gb_s,
        intensity=gflop_s / gb_s,
        compute=compute,
        compute_gflop_s=limits[compute],
        read_gb_s=limits["read"],
        ridge=limits[compute] / limits["read"],
        binds=best["ceiling"] or "",
        fraction=best["ceiling_fraction"],
    )


def _limits(best: Mapping[str, Any], target: Target, db: Database) -> dict[str, float]:
    """The ceilings stored with the target; of an imported winner, those that it brought along."""
    stored = {name: row.value for name, row in db.ceilings(target.digest).items()}
    brought = {
        name.removesuffix("_limit"): float(value)
        for name, value in best["environment"].items()
        if name.endswith("_limit")
    }
    return stored or brought
