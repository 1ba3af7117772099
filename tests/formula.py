"""Stand-ins for compiler and kernels: builds are empty files, and races answer from a formula.

They are for the tests of what a session decides. Nothing is compiled or measured, so nothing here
says how fast anything is.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tuner.codegen.compile import Binary
from tuner.codegen.render import render
from tuner.intervals import median
from tuner.measure.bench import Entrant, Timing, is_cold
from tuner.measure.race import Effort, Race
from tuner.measure.trial import Build
from tuner.measure.verify import Verdict
from tuner.measure.worker import WorkerCrash
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.variant import Variant, parse
from tuner.store.database import Database
from tuner.target import Target
from tuner.target.roofline import Ceilings
from tuner.tune.builder import Builder, Cores
from tuner.tune.plan import Plan, Progress
from tuner.tune.run import run
from tuner.tune.session import Session

PROBLEM = Problem(hidden=256, expert_dim=128, num_experts=8, top_k=2, name="formula")
TARGET = Target("amd", "znver4", ("avx512f",), 2, 32 << 10, 1 << 20, 32 << 20, name="Test CPU")

Formula = Callable[[dict[str, int], Workload], float]


class Machine:
    """All processes of one session: `ns(config, workload)` is the time of a kernel.

    `bad` says of a configuration what is the matter: it is "wrong", or crashes; "flattered" is ten times
    as fast as it is until another process looks, a "cheat" is, too, and wrong on any other seed than
    0; an "overfit" is wrong there and no faster; who is "tired" crashes in the finals. `peak_gflop_s` is
    the ceiling. A copy that races its original takes `copy_factor` times as long. Other processes take
    the share `foreign` of the machine.
    """

    def __init__(self, folder: Path, ns: Formula, noise: float = 0.002) -> None:
        self.folder, self.ns, self.noise = folder, ns, noise
        self.bad: Callable[[dict[str, int]], str] = lambda config: ""
        self.peak_gflop_s = 1e6
        self.copy_factor = 1.0
        self.foreign = 0.0
        self.built: list[str] = []
        self.building = 0
        self.races: list[tuple[Workload, list[str], int]] = []
        self.processes = 0

    def make(self, problem: Problem, target: Target, variants: Sequence[Variant]) -> list[Build]:
        """Builds that take no time; the files are empty."""
        self.building += 1
        time.sleep(0.001)
        builds = [self._make(problem, variant) for variant in variants]
        self.building -= 1
        return builds

    def _make(self, problem: Problem, variant: Variant) -> Build:
        path = self.folder / f"{variant.name}.so"
        path.write_text("")
        self.built.append(variant.name)
        binary = Binary(path, variant.name, 0.0, cached=False)
        return Build(render(problem, variant), binary, "ok", "", 0.0, 0.0)

    def process(self, seed: int) -> Bench:
        self.processes += 1
        return Bench(self, seed)

    def session(
        self, database: Database, plan: Plan, report: Callable[[Progress], None] = lambda p: None
    ) -> Any:
        """Runs a session on this machine."""
        cores = Cores(frozenset({0, 1}), frozenset())
        with Builder(PROBLEM, TARGET, cores, self.make) as builder:
            worker = self.process(plan.seed)
            session = Session(
                PROBLEM, TARGET, database, plan, report, worker, self.process, builder, self.folder
            )
            return run(session)


class Bench:
    """A measuring process that computes times instead of taking them."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.seed = machine, seed
        self._random = random.Random(seed)
        self._restarted = False

    def stop(self) -> None:
        self.machine.processes += 1
        self._restarted = True

    def ceilings(self) -> Ceilings:
        assert self.machine.building == 0, "a build runs beside a measurement"
        return Ceilings(self.machine.peak_gflop_s, 1e6)

    def verify(self, entrant: Entrant, tokens: int) -> Verdict:
        assert self.machine.building == 0, "a build runs beside a measurement"
        kind = self.machine.bad(_config(entrant))
        if kind == "crash":
            raise WorkerCrash("verify: the kernel's process was ended by SIGSEGV")
        wrong = kind == "wrong" or (kind in ("cheat", "overfit") and self.seed != 0)
        return Verdict(not wrong, "y is off" if wrong else "", 0.0, 1)

    def race(
        self,
        entrants: Sequence[Entrant],
        workload: Workload,
        effort: Effort,
        temperature: str = "auto",
    ) -> Timing:
        assert self.machine.building == 0, "a build runs beside a measurement"
        kinds = [self.machine.bad(_config(entrant)) for entrant in entrants]
        if self._restarted and "tired" in kinds:
            raise WorkerCrash("race: the kernel's process was ended by SIGSEGV")
        rows: list[list[int]] = [[] for _ in entrants]
        for number in range(15):
            drift = 1 + 0.1 * (number % 3)  # of the whole machine: paired ratios don't see it
            for row, entrant in zip(rows, entrants, strict=True):
                copies = row is not rows[0] and _config(entrant) == _config(entrants[0])
                factor = drift * (self.machine.copy_factor if copies else 1.0)
                row.append(round(factor * self._ns(entrant, workload)))
            if number + 1 >= effort.first_rounds and _lost(rows, effort.reach):
                break
        cold = is_cold(workload, temperature)
        names = [_name(entrant) for entrant in entrants]
        self.machine.races.append((workload, names, len(rows[0])))
        race = Race(tuple(tuple(row) for row in rows), foreign=self.machine.foreign)
        return Timing(race, 1e3, 1e3, "cold" if cold else "warm")

    def _ns(self, entrant: Entrant, workload: Workload) -> float:
        config = _config(entrant)
        flattered = self.machine.bad(config) in ("flattered", "cheat") and self.seed == 0
        true = self.machine.ns(config, workload) * (0.1 if flattered else 1.0)
        return true * (1 + self.machine.noise * self._random.uniform(-1, 1))


def _lost(rows: list[list[int]], reach: float) -> bool:
    ratios = [median([a / b for a, b in zip(row, rows[0], strict=True)]) for row in rows[1:]]
    return bool(ratios) and all(ratio.low > reach for ratio in ratios)


def _name(entrant: Entrant) -> str:
    return entrant.path.stem.removeprefix("twin-")


def _config(entrant: Entrant) -> dict[str, int]:
    return parse(_name(entrant)).config
