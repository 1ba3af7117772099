"""Final races: finalists, the default and its sentinel copy in several fresh processes, one after the other.

The last process has weights, tokens and routing that no trial has seen, and verifies who races there
first: who is right for the seed of the session alone gets no further.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tuner.errors import KernelError, TemplateError, WorkerError
from tuner.measure import trial as trials
from tuner.measure.bench import Entrant, Timing
from tuner.measure.race import FINAL_EFFORT
from tuner.measure.verify import Verdict
from tuner.measure.worker import Bench
from tuner.space.variant import Variant
from tuner.tune.cell import Cell
from tuner.tune.session import Session

PROCESSES = 2
FINAL_S = 600.0

# Who ran in a race beside the default and its copy, and its samples.
Part = tuple[list[Variant], Timing]


class FinalRaces:
    """Races of some variants of each cell; `refuted` are those that were wrong on other inputs, by id."""

    def __init__(self, session: Session, cells: Sequence[Cell]) -> None:
        self.session, self.cells = session, cells
        self.refuted: dict[str, tuple[Variant, str]] = {}

    def run(self, wanted: Sequence[Sequence[Variant]]) -> list[list[Part]]:
        """For each cell a race in each process; none where nobody is wanted."""
        parts: list[list[Part]] = [[] for _ in wanted]
        for process in range(PROCESSES):
            self.session.worker.stop()
            last = process == PROCESSES - 1
            bench = self.session.other_process() if last else self.session.worker
            try:
                for number, variants in enumerate(wanted):
                    if variants:
                        note = f"{len(variants)} against the default, process {process + 1}"
                        self.cells[number].report("finals", note)
                        right = self._right(bench, number, variants) if last else variants
                        parts[number].append(self._one_race(bench, self.cells[number], right))
            finally:
                bench.stop()
        return parts

    def _right(self, bench: Bench, number: int, variants: Sequence[Variant]) -> list[Variant]:
        """Who is right on other inputs, and was in every cell so far."""
        defaults = {cell.default.id for cell in self.cells}
        for variant in (self.cells[number].default, *variants):
            message = self._verify(bench, self.cells[number], variant)
            if message and variant.id in defaults:
                raise TemplateError(f"{variant.name}: the template's default is wrong {message}")
            if message:
                self.refuted[variant.id] = (variant, message)
        return [variant for variant in variants if variant.id not in self.refuted]

    def _verify(self, bench: Bench, cell: Cell, variant: Variant) -> str:
        """What is wrong with a variant; empty where nothing is, or where it crashes: the race tells that."""
        rows = variant.ragged
        try:
            verdict: Verdict = bench.ask(
                "verify", cell.entrant(variant), cell.workload.tokens, rows,
                timeout_s=trials.VERIFY_S,
            )  # fmt: skip
        except (WorkerError, KernelError):
            return ""
        return "" if verdict.ok else f"on other inputs: {verdict.message}"

    def _one_race(self, bench: Bench, cell: Cell, variants: Sequence[Variant]) -> Part:
        """A race of the default, the variants and the sentinel; who fails is left out."""
        base, twin = cell.entrant(cell.default), self.session.twin(cell.default)
        running = list(variants)
        while True:
            entrants = [base, *map(cell.entrant, running), twin]
            try:
                return running, self._ask(bench, cell, entrants)
            except (WorkerError, KernelError):
                if not running:
                    raise
                sound = [v for v in running if self._runs(bench, cell, [base, cell.entrant(v)])]
                running = sound if len(sound) < len(running) else running[:-1]

    def _runs(self, bench: Bench, cell: Cell, entrants: list[Entrant]) -> bool:
        try:
            self._ask(bench, cell, entrants)
        except (WorkerError, KernelError):
            return False
        return True

    def _ask(self, bench: Bench, cell: Cell, entrants: list[Entrant]) -> Timing:
        effort = dataclasses.replace(FINAL_EFFORT, budget_s=self._budget_s())
        temperature = self.session.plan.temperature
        timing: Timing = bench.ask(
            "race", entrants, cell.workload, effort, temperature, timeout_s=FINAL_S
        )
        return timing

    def _budget_s(self) -> float:
        """Time of one race: what is kept back for the finals, half of it, is for all races."""
        kept = self.session.finals_s()
        share = kept / 2 / PROCESSES / len(self.cells) if kept else FINAL_EFFORT.budget_s
        return min(FINAL_EFFORT.budget_s, share)


def only(timing: Timing, running: Sequence[Variant], kept: Sequence[Variant]) -> Timing:
    """A race of the default, `running` and the sentinel without those that are not kept."""
    rows = timing.race.times_ns
    times = (rows[0], *(rows[1 + running.index(v)] for v in kept), rows[-1])
    return dataclasses.replace(timing, race=dataclasses.replace(timing.race, times_ns=times))
