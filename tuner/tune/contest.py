"""Contest: the finalists of all cells meet in all cells, and the few that lose least are recorded.

Each cell puts up its best; each is tried in every cell where it was not; then the final races decide.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

from tuner.space.variant import Variant
from tuner.store.records import MeasurementRow, SessionRow, WinnerRow
from tuner.tune import verdicts
from tuner.tune.cell import Cell
from tuner.tune.finals import FinalRaces, Part, only
from tuner.tune.held_out import check
from tuner.tune.portfolio import CellRatios, Entry, Kept, best, keep, selector
from tuner.tune.result import CellResult, Pace, TuneResult
from tuner.tune.resume import LAST_TRIAL
from tuner.tune.session import Session
from tuner.tune.shortlist import FINALISTS

# How many variants meet in all cells, beside the defaults; more where there are more cells.
NOMINEES = 8

Measured = Mapping[str, MeasurementRow]


def run(session: Session, cells: Sequence[Cell], pace: Pace) -> TuneResult:
    """Decides what each cell ships, records it, and checks it on the workloads held out."""
    contest = Contest(session, cells)
    kept = contest.decide()
    results = tuple(contest.result(kept, number) for number in range(len(cells)))
    contest.record(kept)
    session.pack = contest.variants[kept.variants[0]].pack
    names = {id: variant.name for id, variant in contest.variants.items()}
    choices = {cell.workload: names[v] for cell, v in zip(cells, kept.choices, strict=True)}
    result = TuneResult(
        session=session.id,
        cells=results,
        kept=tuple(names[v] for v in kept.variants),
        rules=selector(choices),
        mean_regret=kept.mean_loss,
        held_out=tuple(check(session, cells[0], list(contest.variants.values()))),
        pace=pace,
    )
    session.database.record_session(_session_row(session, result))
    for cell in cells:
        cell.report("done", choices[cell.workload])
    return result


class Contest:
    """What was measured of the nominees, cell by cell."""

    def __init__(self, session: Session, cells: Sequence[Cell]) -> None:
        self.session, self.cells = session, cells
        self.variants = {v.id: v for v in nominees(cells, session.pack)}
        self.finals: list[dict[str, Entry]] = [{} for _ in cells]
        self.rows: list[dict[str, MeasurementRow]] = [{} for _ in cells]
        self.foreign: list[float | None] = [None for _ in cells]

    def decide(self) -> Kept:
        """Tries the nominees everywhere, races those in question, and keeps some.

        A choice that has not been in the finals of its cell is raced there, until all have.
        """
        for cell, variant in itertools.product(self.cells, self.variants.values()):
            cell.visit(variant)
        kept = self._keep()
        wanted = [self._finalists(number, kept) for number in range(len(self.cells))]
        while any(wanted):
            self._race(wanted)
            kept = self._keep()
            wanted = [self._unraced(number, [v]) for number, v in enumerate(kept.choices)]
        return kept

    def _finalists(self, number: int, kept: Kept) -> list[Variant]:
        """The cell's choice by the trials, and its fastest nominees."""
        tried = self.cells[number].tried
        fastest = sorted((v for v in self.variants if v in tried), key=lambda v: tried[v].ratio)
        return self._unraced(number, [kept.choices[number], *fastest])[:FINALISTS]

    def _unraced(self, number: int, ids: Iterable[str]) -> list[Variant]:
        known = {*self.finals[number], self.cells[number].default.id}
        return [self.variants[v] for v in dict.fromkeys(ids) if v not in known]

    def _keep(self) -> Kept:
        fields = [self._field(number) for number in range(len(self.cells))]
        packs = {id: variant.pack for id, variant in self.variants.items()}
        return keep(fields, packs, self.session.plan.keep)

    def _field(self, number: int) -> CellRatios:
        """What is known of the nominees in one cell: the finals' word, else the trial's."""
        cell = self.cells[number]
        entries = {cell.default.id: Entry(1.0, 1.0, 1.0, False, 0)}
        for id, variant in self.variants.items():
            if id in cell.tried and id not in entries:
                tried = cell.tried[id]
                apart = verdicts.distance(variant, cell.default)
                # Nobody was in the finals yet: what the trials say has to do.
                proven = not self.finals[number] and tried.high < 1 / (1 + cell.floor)
                entries[id] = Entry(tried.ratio, tried.low, tried.high, proven, apart)
        entries |= self.finals[number]
        return CellRatios(cell.workload, cell.share.weight, cell.default.id, cell.floor, entries)

    def _race(self, wanted: Sequence[Sequence[Variant]]) -> None:
        """Races of some variants in their cells; who is refuted there is out everywhere."""
        races = FinalRaces(self.session, self.cells)
        for number, of_cell in enumerate(races.run(wanted)):
            if of_cell:
                self._take(number, of_cell)
        for id, (variant, message) in races.refuted.items():
            del self.variants[id]
            for number, cell in enumerate(self.cells):
                cell.refute(variant, message)
                self.finals[number].pop(id, None)
                self.rows[number].pop(id, None)

    def _take(self, number: int, parts: Sequence[Part]) -> None:
        """Notes what the races of one cell say; a variant counts if it ran in all of them."""
        cell = self.cells[number]
        ran = [v for v in parts[0][0] if all(v in running for running, _ in parts)]
        field = [cell.default, *ran]
        timings = [only(timing, running, ran) for running, timing in parts]
        if self.session.plan.noise_floor is None:
            twin = verdicts.joined(timings).race.ratio(len(field))
            cell.floor = max(cell.floor, verdicts.floor_of(twin))
        joined = verdicts.joined(timings)
        self.foreign[number] = max(self.foreign[number] or 0.0, joined.race.foreign)
        found = verdicts.entries(timings, field, cell.floor)
        for kernel, (variant, entry) in enumerate(zip(field, found, strict=True)):
            self.finals[number][variant.id] = entry
            self.rows[number][variant.id] = cell.measured(joined, kernel, "final")

    def record(self, kept: Kept) -> None:
        """Stores the finals' measurements and the winners: all or nothing."""
        session = self.session
        with session.database.transaction():
            for number, cell in enumerate(self.cells):
                for id, row in self.rows[number].items():
                    session.database.record_measurement(cell.tried[id].trial_id, row)
                if not self._is_in_doubt(kept, number):
                    session.database.record_winner(self._winner(kept, number))

    def _is_in_doubt(self, kept: Kept, number: int) -> bool:
        """Whether nothing could be proven on a loaded machine, while an earlier session found a winner."""
        session, workload = self.session, self.cells[number].workload
        result = self.result(kept, number)
        proven = self._field(number).entries[kept.choices[number]].proven
        if proven or not result.loaded:
            return False
        return bool(session.database.best(*session.keys, workload.tokens, workload.load))

    def _foreign(self, number: int) -> float:
        """What other processes took in the finals of a cell; where it had none, in its trials."""
        raced, tried = self.foreign[number], self.cells[number].foreign
        return raced if raced is not None else statistics.median(tried or [0.0])

    def _measured(self, number: int, id: str) -> MeasurementRow:
        """A variant's measurement in the finals; a default that raced nobody has its trial's."""
        found = self.rows[number].get(id)
        if found is None:
            trial_id = self.cells[number].tried[id].trial_id
            found = self.session.database.trial(trial_id).measurement
        assert found is not None
        return found

    def _winner(self, kept: Kept, number: int) -> WinnerRow:
        cell, chosen = self.cells[number], kept.choices[number]
        measured, entry = self._measured(number, chosen), self._field(number).entries[chosen]
        return WinnerRow(
            trial_id=cell.tried[chosen].trial_id,
            default_trial_id=cell.base.trial_id,
            problem_id=self.session.keys[0],
            target_id=self.session.keys[1],
            tokens=cell.workload.tokens,
            load=cell.workload.load,
            ratio=entry.ratio,
            ratio_low=entry.low,
            ratio_high=entry.high,
            is_default=chosen == cell.default.id,
            median_ns=measured.median_ns,
            gflop_s=measured.gflop_s,
            gb_s=measured.gb_s,
            ceiling_fraction=measured.ceiling_fraction,
            regret=kept.losses[number],
            foreign_share=round(self._foreign(number), 4),
        )

    def result(self, kept: Kept, number: int) -> CellResult:
        """The outcome for one cell."""
        cell, chosen = self.cells[number], kept.choices[number]
        field = self._field(number)
        measured, base = self._measured(number, chosen), self._measured(number, cell.default.id)
        entry = field.entries[chosen]
        return CellResult(
            workload=cell.workload,
            default=cell.default.name,
            winner=self.variants[chosen].name,
            is_default=chosen == cell.default.id,
            ratio=entry.ratio,
            ratio_low=entry.low,
            ratio_high=entry.high,
            median_ns=measured.median_ns,
            default_median_ns=base.median_ns,
            gflop_s=measured.gflop_s or 0.0,
            gb_s=measured.gb_s or 0.0,
            ceiling=measured.ceiling,
            ceiling_fraction=measured.ceiling_fraction or 0.0,
            temperature=measured.temperature,
            statuses=dict(cell.statuses),
            best=self.variants[best(field)].name,
            regret=kept.losses[number],
            noise_floor=cell.floor,
            weight=cell.share.weight,
            foreign=self._foreign(number),
        )


def nominees(cells: Sequence[Cell], pack: str | None) -> list[Variant]:
    """The defaults of all cells, and the fastest few of each.

    All but the defaults read the settled packed form. Each cell puts up as many as any other, so that
    the same session run again nominates nobody else.
    """
    each = max(1, NOMINEES // len(cells))
    fastest = [v for cell in cells for v in cell.finalists(pack or cell.default.pack)[:each]]
    return list({v.id: v for v in (*(cell.default for cell in cells), *fastest)}.values())


def _session_row(session: Session, result: TuneResult) -> SessionRow:
    data = dataclasses.asdict(result) | {
        "per_minute": round(result.pace.per_minute, 2),
        LAST_TRIAL: session.last_trial,
    }
    problem_id, target_id = session.keys
    return SessionRow(id=session.id, problem_id=problem_id, target_id=target_id, data=data)
