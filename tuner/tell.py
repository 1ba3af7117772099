"""Reads the results of a job folder into the database: trials as far as they got, and winners.

A job may be told at any time, and again when more of it has run: what is recorded already is left out.
Rows belong to the card that measured, which the job may not have asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuner import cards, job_work
from tuner import job as jobs
from tuner.database import Database
from tuner.errors import TargetError
from tuner.job import Job
from tuner.records import MeasurementRow, TrialRow, WinnerRow
from tuner.statistics import Median, median
from tuner.target import Target, of_card
from tuner.trial import SLOW
from tuner.variant import parse
from tuner.workload import Workload

# A gain has to be more than this: two loads of one program differ by about as much.
NOISE_FLOOR = 0.01

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
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
    """What a job brought: trials that are new, how they ended, and winners."""

    target: Target
    asked_for: Target
    recorded: int
    statuses: Mapping[str, int]
    cells: tuple[Cell, ...]


def tell(folder: Path, db: Database) -> Told:
    """Reads a job's results.

    Raises:
        JobError: the folder is no job.
        TargetError: nothing was measured yet, or on a card that is not known.
    """
    job, results = jobs.read(folder), list(jobs.results(folder))
    target = _target(folder, results)
    asked_for = Target.from_key({**job.target, "name": job.target_name})
    book = _Book(job, target, db, results)
    with db.transaction():
        recorded = book.record_trials()
        cells = [cell for t in job.tokens if (cell := book.record_winner(t)) is not None]
    statuses: dict[str, int] = {}
    for result in book.trials:
        statuses[result["status"]] = statuses.get(result["status"], 0) + 1
    return Told(target, asked_for, recorded, statuses, tuple(cells))


def _target(folder: Path, results: Sequence[Result]) -> Target:
    device = next((r for r in results if r["kind"] == "device"), None)
    if device is None:
        raise TargetError(
            f"{folder}: no device has measured yet; `moetune run-job` it on the GPU's machine"
        )
    card = cards.by_label(device["name"])
    if card is None:
        known = ", ".join(c.label for c in cards.CARDS.values())
        raise TargetError(f"{device['name']}: no known card; there are {known}")
    return of_card(card)


class _Book:
    """Writes one job's rows."""

    def __init__(self, job: Job, target: Target, db: Database, results: Sequence[Result]) -> None:
        self.job, self.target, self.db, self.results = job, target, db, results
        self.problem = job.layer
        self.ids = {"problem_id": db.add_problem(self.problem), "target_id": db.add_target(target)}
        failed = [{"kind": "trial", "tokens": t, **f} for f in job.failed for t in job.tokens]
        self.trials = [*failed, *(r for r in results if r["kind"] == "trial")]
        self.rows: dict[tuple[str, int], int] = {}

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
        variant = parse(result["variant"], self.job.template)
        self.db.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        timed = result["status"] == "ok"
        ratio = _paired(result["samples"], result["default_samples"]) if timed else None
        row = TrialRow(
            **self._workload(result["tokens"]),
            variant_id=variant.id,
            status="slow" if ratio and ratio.low > SLOW else result["status"],
            message=result.get("message", ""),
            source_digest=parts.source_digest if parts else "",
            binary_key=parts.binary_key if parts else "",
            compile_ms=parts.compile_ms if parts else None,
            verify_ms=result.get("verify_ms"),
            benchmark_ms=result.get("benchmark_ms"),
            environment=self._environment(),
            session=self.job.session,
            created=result.get("created", ""),
        )
        measured = (
            self._measurement(result["tokens"], result["samples"], ratio, "trial")
            if ratio
            else None
        )
        return self.db.record_trial(row, measured)

    def record_winner(self, tokens: int) -> Cell | None:
        """The winner of a token count by its finals, if they ran; recorded once."""
        finals = [r for r in self.results if r["kind"] == "final" and r["tokens"] == tokens]
        if not finals:
            return None
        names = finals[0]["variants"]
        best, ratio = _winner(finals)
        samples = [s for final in finals for s in final["samples"][best]]
        base = [s for final in finals for s in final["samples"][0]]
        measured = self._measurement(tokens, samples, ratio, "final")
        one = median([1.0])
        trial, default = self.rows[names[best], tokens], self.rows[names[0], tokens]
        if not any(m.kind == "final" for m in self.db.trial(trial).measurements):
            self.db.record_measurement(trial, measured)
        if best and not any(m.kind == "final" for m in self.db.trial(default).measurements):
            self.db.record_measurement(default, self._measurement(tokens, base, one, "final"))
        self.db.record_winner(
            WinnerRow(
                **self._workload(tokens),
                trial_id=trial,
                default_trial_id=default,
                median_ns=measured.median_ns,
                ratio=ratio.value,
                ratio_low=ratio.low,
                ratio_high=ratio.high,
                is_default=best == 0,
                gflop_s=measured.gflop_s,
                gb_s=measured.gb_s,
                ceiling_fraction=measured.ceiling_fraction,
            )
        )
        base_ns = median(base).value
        return Cell(
            tokens,
            names[0],
            names[best],
            base_ns,
            measured.median_ns,
            ratio.value,
            ratio.low,
            ratio.high,
        )

    def _measurement(
        self, tokens: int, samples: Sequence[float], ratio: Median, kind: str
    ) -> MeasurementRow:
        time_ns = median(samples)
        flops, read = job_work.of(self.job, Workload(tokens, self.job.load))
        copy_gb_s = self._device()["copy_gb_s"]
        return MeasurementRow(
            kind=kind,
            temperature="cold",
            samples=tuple(samples),
            median_ns=time_ns.value,
            low_ns=time_ns.low,
            high_ns=time_ns.high,
            p95_ns=float(np.percentile(samples, 95)),
            p99_ns=float(np.percentile(samples, 99)),
            ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            gflop_s=flops / time_ns.value,
            gb_s=read / time_ns.value,
            ceiling="copy",
            ceiling_fraction=read / copy_gb_s / time_ns.value,
        )

    def _workload(self, tokens: int) -> dict[str, Any]:
        return {**self.ids, "tokens": tokens, "load": self.job.load}

    def _device(self) -> Result:
        return next(r for r in self.results if r["kind"] == "device")

    def _environment(self) -> dict[str, Any]:
        device = self._device()
        told = ("name", "driver", "memory_bytes", "copy_gb_s", "clocks")
        return {**self.job.environment, **{name: device[name] for name in told if name in device}}


def _paired(samples: Sequence[float], base: Sequence[float]) -> Median:
    return median([a / b for a, b in zip(samples, base, strict=True)])


def _winner(finals: Sequence[Result]) -> tuple[int, Median]:
    """The variant that is surely faster than the default in every final, and by the most; else the default."""
    best, ratio = 0, median([1.0])
    for number in range(1, len(finals[0]["variants"])):
        each = [_paired(f["samples"][number], f["samples"][0]) for f in finals]
        pairs = [
            a / b
            for f in finals
            for a, b in zip(f["samples"][number], f["samples"][0], strict=True)
        ]
        together = median(pairs)
        sure = all(r.high < 1 for r in each) and together.value < 1 - NOISE_FLOOR
        if sure and together.value < ratio.value:
            best, ratio = number, together
    return best, ratio
