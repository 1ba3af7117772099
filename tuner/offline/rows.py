"""What a job's results say of the machine that measured, and of a race there, as the database has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from tuner.errors import TargetError
from tuner.measure.bench import Timing
from tuner.measure.metrics import measurement, memory_limit, row_of
from tuner.measure.race import Race
from tuner.offline import work as job_work
from tuner.offline.job import Job
from tuner.problem.workload import Workload
from tuner.store.records import MeasurementRow
from tuner.target import Target, gpus
from tuner.target.roofline import Ceilings
from tuner.target.target import of_card
from tuner.tune.verdicts import floor_of

# A gain has to be more than this: two loads of one program differ by about as much.
NOISE_FLOOR = 0.01

Result = Mapping[str, Any]


class Machine(Protocol):
    """Who measured: a GPU or a CPU."""

    target: Target

    def environment(self, result: Result) -> dict[str, Any]:
        """What a row says about where and how it was measured."""

    def measured(
        self, tokens: int, lines: Sequence[Result], number: int, kind: str
    ) -> MeasurementRow:
        """The row of one variant of a race in one or several processes."""

    def floor(self, finals: Sequence[Result]) -> float:
        """The gain, as a share, that is told from noise."""

    def ceilings(self) -> tuple[tuple[str, float, str], ...]:
        """Limits to record: name, value, unit."""


def machine_of(folder: Path, job: Job, results: Sequence[Result]) -> Machine:
    """Raises TargetError where nothing was measured yet, or on a card that is not known."""
    devices = [r for r in results if r["kind"] == "device"]
    if not devices:
        where = "on the GPU's machine" if job.kind == "gpu" else "where its target is"
        raise TargetError(f"{folder}: no device has measured yet; `moetune run-job` it {where}")
    return GpuMachine(job, devices) if job.kind == "gpu" else CpuMachine(job, devices)


def race_of(lines: Sequence[Result], sentinel: bool = False) -> Race:
    """Races of the same variants as one, still paired; with ``sentinel`` the default's copy is the last."""
    rows = [[*line["samples"], *([line["twin"]] if sentinel else [])] for line in lines]
    timings = [line.get("timing", {}) for line in lines]
    return Race(
        times_ns=tuple(
            tuple(t for part in of_one for t in part) for of_one in zip(*rows, strict=True)
        ),
        probe_gb_s=tuple(v for timing in timings for v in timing.get("probe_gb_s", ())),
        probe_gflop_s=tuple(v for timing in timings for v in timing.get("probe_gflop_s", ())),
        foreign=max(timing.get("foreign", 0.0) for timing in timings),
        redone=sum(timing.get("redone", 0) for timing in timings),
    )


# What a card measures in a job: name, and unit.
_GPU_RATES = {"copy_gb_s": "GB/s", "read_gb_s": "GB/s", "dense_gflop_s": "GFLOP/s"}


class GpuMachine:
    """A card: its rates are the best that it measured in the job; its ceiling, the higher of copy and read."""

    def __init__(self, job: Job, devices: Sequence[Result]) -> None:
        self.job = job
        self._rates = {name: max(d[name] for d in devices) for name in _GPU_RATES}
        self._device = {**devices[0], **self._rates}
        card = gpus.by_label(self._device["name"])
        if card is None:
            known = ", ".join(c.label for c in gpus.CARDS.values())
            raise TargetError(f"{self._device['name']}: no known card; there are {known}")
        self.target = of_card(card)

    def environment(self, result: Result) -> dict[str, Any]:
        told = ("name", "driver", "memory_bytes", *_GPU_RATES, "clocks")
        return {name: self._device[name] for name in told if name in self._device}

    def measured(
        self, tokens: int, lines: Sequence[Result], number: int, kind: str
    ) -> MeasurementRow:
        race = race_of(lines)
        work = job_work.of(self.job, Workload(tokens, self.job.load))
        limit = memory_limit(self._rates, work[1], race.time(number).value)
        return row_of(race, number, kind, "cold", work, limit)

    def floor(self, finals: Sequence[Result]) -> float:
        return NOISE_FLOOR

    def ceilings(self) -> tuple[tuple[str, float, str], ...]:
        return tuple(
            (name.removesuffix("_gb_s").removesuffix("_gflop_s"), self._rates[name], unit)
            for name, unit in _GPU_RATES.items()
        )


class CpuMachine:
    """A processor, as it was found on its machine; its ceilings are the best that it measured in the job."""

    def __init__(self, job: Job, devices: Sequence[Result]) -> None:
        self.job, self._device = job, devices[0]
        self.target = Target.from_key(self._device["target"])
        best = {f.name: max(d[f.name] for d in devices) for f in dataclasses.fields(Ceilings)}
        self._ceilings = Ceilings(**best)

    def environment(self, result: Result) -> dict[str, Any]:
        told: dict[str, Any] = {
            name: self._device[name] for name in ("python", "kernel", "load_1m")
        }
        told |= {"cpu": self.target.name, "cores": self.target.cores}
        told |= {f"{name}_limit": round(value, 1) for name, value, _ in self.ceilings()}
        if "timing" in result:
            race = race_of([{**result, "samples": []}])
            told["foreign"] = round(race.foreign, 3)
            told["probe_gb_s"] = round(race.read_gb_s, 1)
            told["probe_gflop_s"] = round(race.peak_gflop_s, 1)
        return told

    def measured(
        self, tokens: int, lines: Sequence[Result], number: int, kind: str
    ) -> MeasurementRow:
        first = lines[0]["timing"]
        timing = Timing(race_of(lines), first["flops"], first["read_bytes"], first["temperature"])
        # The peak that was probed is that of the code's features.
        features = Target.from_key(self.job.target).features
        target = dataclasses.replace(self.target, features=features)
        return measurement(timing, number, self._ceilings, target, self.job.layer, kind)

    def floor(self, finals: Sequence[Result]) -> float:
        race = race_of(finals, sentinel=True)
        return max(NOISE_FLOOR, floor_of(race.ratio(len(race.times_ns) - 1)))

    def ceilings(self) -> tuple[tuple[str, float, str], ...]:
        return self._ceilings.rows()
