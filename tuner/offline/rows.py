"""What a job's results say of the machine that measured, and of a race there, as the database has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tuner.errors import TargetError
from tuner.measure.bench import Timing
from tuner.measure.metrics import drawn_work, limits_of, measurement, noise
from tuner.measure.race import Race
from tuner.offline.job import Job
from tuner.problem.workload import Workload
from tuner.store.records import MeasurementRow
from tuner.target import Target, gpus
from tuner.target.roofline import Ceilings, GpuCeilings, Limits
from tuner.target.target import of_card
from tuner.tune.verdicts import LEAST_FLOOR, as_one, floor_of

Result = Mapping[str, Any]
Rates = TypeVar("Rates", Ceilings, GpuCeilings)


class Machine(Protocol):
    """Who measured: a GPU or a CPU. `code` is what its programs were made for, `limits` the best of the job."""

    @property
    def target(self) -> Target: ...

    @property
    def code(self) -> Target: ...

    @property
    def limits(self) -> Limits: ...

    def environment(self, result: Result) -> dict[str, Any]:
        """What a row says about where and how it was measured."""


def machine_of(folder: Path, job: Job, results: Sequence[Result]) -> Machine:
    """Raises TargetError where nothing was measured yet, or on a card that is not known."""
    devices = [r for r in results if r["kind"] == "device"]
    if not devices:
        where = "on the GPU's machine" if job.kind == "gpu" else "where its target is"
        raise TargetError(f"{folder}: no device has measured yet; `moetune run-job` it {where}")
    return GpuMachine(devices) if job.kind == "gpu" else CpuMachine(job, devices)


def race_of(lines: Sequence[Result], sentinel: bool = False) -> Race:
    """Races of the same variants as one, still paired; with ``sentinel`` the default's copy is the last."""
    return as_one([_race(line, sentinel) for line in lines])


def _race(line: Result, sentinel: bool) -> Race:
    """The race of one line; a GPU's of before tells no more than its samples."""
    timing = line.get("timing", {})
    return Race(
        times_ns=tuple(map(tuple, [*line["samples"], *([line["twin"]] if sentinel else [])])),
        probe_gb_s=tuple(timing.get("probe_gb_s", ())),
        probe_gflop_s=tuple(timing.get("probe_gflop_s", ())),
        foreign=timing.get("foreign", 0.0),
        redone=timing.get("redone", 0),
    )


def measured(
    job: Job, machine: Machine, tokens: int, lines: Sequence[Result], number: int, kind: str
) -> MeasurementRow:
    """The row of one variant of a race in one or several processes."""
    race, told = race_of(lines), lines[0].get("timing")
    if told:
        timing = Timing(race, told["flops"], told["read_bytes"], told["temperature"])
    else:  # a GPU's results of before they told it
        work = drawn_work(job.layer, Workload(tokens, job.load), job.seed)
        timing = Timing(race, *work, "cold")
    return measurement(timing, number, machine.limits, machine.code, job.layer, kind)


def floor(finals: Sequence[Result]) -> float:
    """The gain, as a share, that is told from noise: what the copy of the default tells, where one raced."""
    if not all("twin" in line for line in finals):
        return LEAST_FLOOR
    race = race_of(finals, sentinel=True)
    return floor_of(race.ratio(len(race.times_ns) - 1))


class GpuMachine:
    """A card; its rates are the best that it measured in the job."""

    def __init__(self, devices: Sequence[Result]) -> None:
        self._device, self.limits = devices[0], _best(GpuCeilings, devices)
        card = gpus.by_label(self._device["name"])
        if card is None:
            known = ", ".join(c.label for c in gpus.CARDS.values())
            raise TargetError(f"{self._device['name']}: no known card; there are {known}")
        self.target = self.code = of_card(card)

    def environment(self, result: Result) -> dict[str, Any]:
        told = {**self._device, **dataclasses.asdict(self.limits)}
        rates = (f.name for f in dataclasses.fields(GpuCeilings))
        names = ("name", "driver", "memory_bytes", *rates, "clocks")
        return {name: told[name] for name in names if name in told}


class CpuMachine:
    """A processor, as it was found on its machine; its ceilings are the best that it measured in the job."""

    def __init__(self, job: Job, devices: Sequence[Result]) -> None:
        self._device, self.limits = devices[0], _best(Ceilings, devices)
        self.target = Target.from_key(self._device["target"])
        # The peak that was probed is that of the code's features.
        features = Target.from_key(job.target).features
        self.code = dataclasses.replace(self.target, features=features)

    def environment(self, result: Result) -> dict[str, Any]:
        told: dict[str, Any] = {
            name: self._device[name] for name in ("python", "kernel", "load_1m")
        }
        told |= {"cpu": self.target.name, "cores": self.target.cores}
        told |= limits_of(self.limits)
        if "timing" in result:
            told |= noise(race_of([{**result, "samples": []}]))
        return told


def _best(of: type[Rates], devices: Sequence[Result]) -> Rates:
    """The highest of each rate."""
    return of(**{f.name: max(d[f.name] for d in devices) for f in dataclasses.fields(of)})
