"""Reads the results of a job folder into the database: trials as far as they got, and winners.

A job may be told at any time, and again when more of it has run: what is recorded already is left out.
Rows belong to the GPU or CPU that measured, which the job may not have asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tuner.measure.race import SLOW
from tuner.offline import job as jobs
from tuner.offline.job import Job, JobError, JobVariant
from tuner.offline.rows import Machine, Result, floor, machine_of, measured, race_of
from tuner.offline.run import FINAL_RUNS, finals_of, identity
from tuner.space import templates
from tuner.space.variant import Variant, parse
from tuner.store.database import Database
from tuner.store.records import Environment, MeasurementRow, TrialRow, WinnerRow
from tuner.store.sound import MOST_TEXT
from tuner.target import Target
from tuner.tune.verdicts import is_proven


@dataclass(frozen=True)
class ToldWinner:
    """The winner of one token count: names, medians in ns, and the ratio to the default."""

    tokens: int
    default: str
    winner: str
    default_ns: float
    winner_ns: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Told:
    """What a job brought: trials that are new, how they ended, and winners; and what was left out, and why."""

    target: Target
    asked_for: Target
    recorded: int
    statuses: Mapping[str, int]
    cells: tuple[ToldWinner, ...]
    left_out: tuple[str, ...] = ()


def tell(folder: Path, db: Database) -> Told:
    """Reads a job's results.

    Raises:
        JobError: the folder is no job, or its results are of several devices.
        TargetError: nothing was measured yet, or on a card that is not known.
    """
    job = jobs.read(folder)
    results, damaged = (found := jobs.results(folder, job)).lines, found.damaged
    _check_one_device(folder, results)
    machine = machine_of(folder, job, results)
    asked_for = Target.from_key({**job.target, "name": job.target_name})
    book = _Book(job, machine, db, results)
    with db.transaction():
        recorded = book.record_trials()
        cells = [cell for t in job.tokens if (cell := book.record_winner(t)) is not None]
    statuses: dict[str, int] = {}
    for result in book.trials:
        statuses[result["status"]] = statuses.get(result["status"], 0) + 1
    left_out = (*damaged, *book.left_out)
    return Told(machine.target, asked_for, recorded, statuses, tuple(cells), left_out)


def _check_one_device(folder: Path, results: Sequence[Result]) -> None:
    """Rows belong to who measured. A job does not go on elsewhere, but its results may be joined by hand."""
    names = {identity(line): line["name"] for line in results if line["kind"] == "device"}
    if len(names) > 1:
        raise JobError(
            f"{folder}: its results are of several devices ({', '.join(names.values())}); "
            "keep those of each in a job folder of its own"
        )


class _Book:
    """Writes one job's rows."""

    def __init__(self, job: Job, machine: Machine, db: Database, results: Sequence[Result]) -> None:
        self.job, self.machine, self.db, self.results = job, machine, db, results
        target_id = db.add_target(machine.target)
        self.ids = {"problem_id": db.add_problem(job.layer), "target_id": target_id}
        for limit in machine.limits.rows():
            db.set_ceiling(target_id, *limit)
        failed = [{"kind": "trial", "tokens": t, **f} for f in job.failed for t in job.tokens]
        self.trials = [*failed, *(r for r in results if r["kind"] == "trial")]
        self.rows: dict[tuple[str, int], int] = {}
        self.left_out: list[str] = []

    def record_trials(self) -> int:
        """Rows of all trials; returns how many are new."""
        known = {
            (row.variant, t): row.id
            for t in self.job.tokens
            for row in self.db.trials(**self._workload(t))
            if row.session == self.job.session and row.id is not None
        }
        new = 0
        for result in self.trials:
            key = (result["variant"], result["tokens"])
            if key in known:
                self.rows[key] = known[key]
            else:
                self.rows[key] = known[key] = self._record(result)
                new += 1
        return new

    def _record(self, result: Result) -> int:
        parts = {v.name: v for v in self.job.variants}.get(result["variant"])
        variant = parse(result["variant"])
        self.db.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        found = None
        if result["status"] == "ok":
            line = {**result, "samples": [result["default_samples"], result["samples"]]}
            found = self._measured(result["tokens"], [line], 1, "trial")
        slow = found is not None and (found.ratio_low or 0.0) > SLOW
        row = TrialRow(
            **self._workload(result["tokens"]),
            variant_id=variant.id,
            status="slow" if slow else result["status"],
            message=result.get("message", "")[:MOST_TEXT],
            source_digest=parts.source_digest if parts else "",
            binary_key=parts.binary_key if parts else "",
            compile_ms=parts.compile_ms if parts else None,
            verify_ms=result.get("verify_ms"),
            benchmark_ms=result.get("benchmark_ms"),
            environment=self._environment(result, variant, parts),
            session=self.job.session,
            created=result.get("created", ""),
        )
        return self.db.record_trial(row, found)

    def _environment(
        self, result: Result, variant: Variant, parts: JobVariant | None
    ) -> Environment:
        found = {**self.job.environment, **self.machine.environment(result)}
        digest = parts.template_digest if parts else templates.digest(variant.template)
        made_by = {"template": digest} if digest else {}
        return cast(Environment, found | made_by | {"base": self.job.default(result["tokens"])})

    def record_winner(self, tokens: int) -> ToldWinner | None:
        """The winner of a token count by its finals, if all of them ran; recorded once."""
        finals = self._finals(tokens)
        if len(finals) < FINAL_RUNS:
            return None
        names = finals[0]["variants"]
        if missing := [name for name in names if (name, tokens) not in self.rows]:
            self.left_out.append(
                f"{tokens} tokens: the finals are left out: no trial of {missing[0]} is in the results; "
                "run the job again"
            )
            return None
        best = _winner(finals, self._keeps_default(names))
        base = self._measured(tokens, finals, 0, "final")
        row = self._measured(tokens, finals, best, "final")
        ratios = row.ratio or 1.0, row.ratio_low or 1.0, row.ratio_high or 1.0
        trial, default = self.rows[names[best], tokens], self.rows[names[0], tokens]
        if not any(m.kind == "final" for m in self.db.trial(trial).measurements):
            self.db.record_measurement(trial, row)
        if best and not any(m.kind == "final" for m in self.db.trial(default).measurements):
            self.db.record_measurement(default, base)
        self.db.record_winner(
            WinnerRow(
                **self._workload(tokens),
                trial_id=trial,
                default_trial_id=default,
                median_ns=row.median_ns,
                ratio=ratios[0],
                ratio_low=ratios[1],
                ratio_high=ratios[2],
                is_default=best == 0,
                gflop_s=row.gflop_s,
                gb_s=row.gb_s,
                ceiling_fraction=row.ceiling_fraction,
                foreign_share=race_of(finals).foreign if "timing" in finals[0] else None,
            )
        )
        return ToldWinner(tokens, names[0], names[best], base.median_ns, row.median_ns, *ratios)

    def _finals(self, tokens: int) -> list[Result]:
        """Those of the last finalists: where trials were lost, others may have raced before."""
        finals = [r for r in self.results if r["kind"] == "final" and r["tokens"] == tokens]
        return finals_of(self.results, tokens, finals[-1]["variants"]) if finals else []

    def _measured(
        self, tokens: int, lines: Sequence[Result], number: int, kind: str
    ) -> MeasurementRow:
        return measured(self.job, self.machine, tokens, lines, number, kind)

    def _keeps_default(self, names: Sequence[str]) -> bool:
        """Whether the finalists read the default's packed form, so that a layer may run it beside them."""
        return len({parse(name).pack for name in names}) == 1

    def _workload(self, tokens: int) -> dict[str, Any]:
        return {**self.ids, "tokens": tokens, "load": self.job.load}


def _winner(finals: Sequence[Result], keeps_default: bool) -> int:
    """The variant that is proven against the default, and the fastest of these; else the default.

    Where a layer that has the finalists' packed form cannot run the default, it is else the fastest that is not
    surely slower.
    """
    races, whole, least = [race_of([final]) for final in finals], race_of(finals), floor(finals)
    ratios = {n: whole.ratio(n) for n in range(1, len(whole.times_ns))}
    sure = {
        n: ratio.value for n, ratio in ratios.items() if is_proven(races, n, ratio.value, least)
    }
    pool = sure or ({} if keeps_default else {n: r.value for n, r in ratios.items() if r.low <= 1})
    return min(pool, key=lambda n: pool[n], default=0)
