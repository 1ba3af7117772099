"""The process of one contestant, asked by methods that say what they answer."""

from __future__ import annotations

from tuner.measure.bench import Entrant
from tuner.measure.worker import Worker
from tuner.peers.contestant import ReadyContestant, Sample
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.target import Target
from tuner.target.roofline import Ceilings

STATE = "tuner.peers.contestant:Contestant"
ASK_S = 300.0


class ContestantProcess:
    """A contestant in a process of its own; use it as a context manager.

    Its methods raise WorkerError where the process crashes or hangs, and what the contestant raises.
    """

    def __init__(self, problem: Problem, target: Target, seed: int) -> None:
        self._worker = Worker(problem, target, seed, STATE)

    def __enter__(self) -> ContestantProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._worker.stop()

    def ceilings(self) -> Ceilings:
        """What this machine can do at most, measured now."""
        ceilings: Ceilings = self._worker.ask("ceilings", timeout_s=ASK_S)
        return ceilings

    def enter(self, name: str, workload: Workload, entrant: Entrant | None) -> ReadyContestant:
        """Gets ready for a workload; `entrant` is our kernel, None for a peer."""
        ready: ReadyContestant = self._worker.ask("enter", name, workload, entrant, timeout_s=ASK_S)
        return ready

    def sample(self, number: int) -> Sample:
        """One timed call on the tokens of a round."""
        sample: Sample = self._worker.ask("sample", number, timeout_s=ASK_S)
        return sample

    def processor_seconds(self) -> float:
        """What the process has used so far."""
        seconds: float = self._worker.ask("processor_seconds", timeout_s=ASK_S)
        return seconds
