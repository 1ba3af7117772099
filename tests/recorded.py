"""Measuring processes that know the answers from a recorded grid: tests/replayed.py starts them."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

from tuner.errors import KernelError
from tuner.measure.bench import Entrant, Timing, is_cold
from tuner.measure.race import Call, Effort, Race, race
from tuner.measure.verify import Verdict
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.search import replay
from tuner.space.variant import parse
from tuner.target import Target
from tuner.target.roofline import Ceilings

STATE = "tests.recorded:Recorded"
# Its environment: which grid answers, and at which request something happens.
GRID, FAULT = "RECORDED_GRID", "RECORDED_FAULT"
# Rounds of a loop that the default takes: about half a millisecond.
SPINS = 20_000


class Recorded:
    """What a measuring process answers: the grid's times, without noise.

    FAULT is "METHOD:NUMBER": in that request (counted from 1) it kills the tuner.
    """

    def __init__(self, problem: Problem, target: Target, seed: int) -> None:
        self._grid = replay.load(Path(os.environ[GRID]))
        self._counts: dict[str, int] = {}

    def _asked(self, method: str) -> None:
        self._counts[method] = self._counts.get(method, 0) + 1
        if os.environ.get(FAULT) == f"{method}:{self._counts[method]}":
            os.kill(os.getppid(), signal.SIGKILL)
            os._exit(1)

    def ceilings(self) -> Ceilings:
        return Ceilings(1e6, 1e6)

    def verify(self, entrant: Entrant, tokens: int) -> Verdict:
        self._asked("verify")
        right = self._grid.answer(config_of(entrant)).status == "ok"
        return Verdict(right, "" if right else "y is off", 0.0, 1)

    def race(
        self, entrants: list[Entrant], workload: Workload, effort: Effort, temperature: str = "auto"
    ) -> Timing:
        self._asked("race" if len(entrants) == 2 else "final")
        answers = [self._grid.answer(config_of(entrant)) for entrant in entrants]
        times = tuple((round(1e6 * (a.ratio or 0.0)),) * effort.least_rounds for a in answers)
        cold = is_cold(workload, temperature)
        return Timing(Race(times), 1e3, 1e3, "cold" if cold else "warm")


def config_of(entrant: Entrant) -> dict[str, int]:
    """The configuration of an entrant, whose "library" is the source: its third line names the variant, but
    for the number of threads."""
    lines = entrant.path.read_text(errors="replace").splitlines()[2:3]
    if not lines:
        raise KernelError(f"{entrant.path}: does not load")
    name = lines[0].removeprefix("# Variant: ")
    return parse(name.replace("_s", f"_w{entrant.workers}_s", 1)).config


class Spinning(Recorded):
    """A measuring process whose kernels are loops as long as the grid says, timed for real."""

    def race(
        self, entrants: list[Entrant], workload: Workload, effort: Effort, temperature: str = "auto"
    ) -> Timing:
        answers = [self._grid.answer(config_of(entrant)) for entrant in entrants]
        calls = [spinning(round(SPINS * (answer.ratio or 0.0))) for answer in answers]
        brief = dataclasses.replace(effort, budget_s=0.05)
        return Timing(race(calls, brief, retries=1), 1e3, 1e3, "warm")


def spinning(rounds: int) -> Call:
    def call(number: int) -> None:
        for _ in range(rounds):
            pass

    return call


class Sleeper:
    """A measuring process that never comes back."""

    def __init__(self, problem: Problem, target: Target, seed: int) -> None:
        pass

    def number(self) -> int:
        return os.getpid()

    def sleep(self) -> None:
        time.sleep(600)
