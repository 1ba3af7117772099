"""Peers: our tuned layer side by side with other libraries, interleaved in one run.

Each contestant lives in a child process of its own; they are asked in turn, one sample each a
round, starting with another one each time. Ratios are paired round by round.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner import trial
from tuner.bench_state import Entrant, Timing
from tuner.benchmark import DECODE_TOKENS, Effort, Race
from tuner.ceilings import Ceilings
from tuner.compile import compile_source
from tuner.contestant import PEERS, Entry, Sample
from tuner.database import Database
from tuner.errors import UsageError
from tuner.foreign import FOREIGN_LIMIT
from tuner.problem import Problem
from tuner.render import render
from tuner.select import Selection, best_config
from tuner.target import Target
from tuner.variant import make
from tuner.worker import Worker
from tuner.workload import Workload

STATE = "tuner.contestant:Contestant"
OURS = "ours"
EFFORT = Effort(budget_s=4.0, least_rounds=9, most_rounds=60, precision=0.01)
RETRIES = 2
SEED = 0
ASK_S = 300.0

Report = Callable[[str], None]


@dataclass(frozen=True)
class PeerRow:
    """One peer at one workload. `ratio` is its time / ours, paired: above 1 we are faster.

    `variant` and `match` tell which kernel ran and how it was chosen; `form` which of the peer's
    forms was the fastest. Rates and `ceiling_fraction` are ours; `ceiling` is fma or read.
    """

    tokens: int
    load: str
    peer: str
    variant: str
    match: str
    ours_median_ns: float
    peer_median_ns: float
    ratio: float
    ratio_low: float
    ratio_high: float
    gflop_s: float
    gb_s: float
    ceiling: str
    ceiling_fraction: float
    temperature: str
    form: str = ""
    foreign: float = 0.0


def installed() -> tuple[str, ...]:
    """The peers that can run here."""
    return tuple(name for name in PEERS if importlib.util.find_spec(name) is not None)


def side_by_side(
    problem: Problem,
    target: Target,
    database: Database,
    tokens: Sequence[int],
    against: Sequence[str],
    load: str = "uniform",
    report: Report = lambda note: None,
) -> list[PeerRow]:
    """Time our best variant and each peer of `against` on each number of tokens.

    Up to DECODE_TOKENS the weights are cold, beyond they are warm.

    Raises:
        UsageError: a peer that is not known or not installed, or no tokens.
        PeerError: a contestant computes something else than the float64 reference.
        WorkerError: a contestant's process crashed or hung.
    """
    _check(problem, tokens, against)
    workloads = [Workload(count, load) for count in tokens]
    chosen = [_chosen(problem, target, database, workload) for workload in workloads]
    rows: list[PeerRow] = []
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(problem, target, SEED, STATE)) for _ in (OURS, *against)
        ]
        ceilings: Ceilings = workers[0].ask("ceilings", timeout_s=ASK_S)
        cell = _Cell(problem, target, workers, (OURS, *against), ceilings, report)
        for workload, (selection, entrant) in zip(workloads, chosen, strict=True):
            rows += cell.run(workload, selection, entrant)
    return rows


def _check(problem: Problem, tokens: Sequence[int], against: Sequence[str]) -> None:
    known = ", ".join(PEERS)
    for name in against:
        if name not in PEERS:
            raise UsageError(f"peer {name!r}: not known; use {known}")
        if name not in installed():
            mend = "pip install 'moetune[compare]', or leave it out"
            raise UsageError(f"peer {name!r}: {name} is not installed; {mend}")
    if not against:
        raise UsageError(f"peers: none given; use {known}")
    if len(set(against)) < len(against):
        raise UsageError(f"peers {', '.join(against)}: one is given twice; name each once")
    if not tokens or min(tokens) < 1:
        raise UsageError(f"tokens={list(tokens)}: must be numbers of at least 1; give such ones")
    if problem.dtype != problem.weight_dtype:
        raise UsageError(
            f"weight_dtype={problem.weight_dtype}: peers have one data type; use {problem.dtype}"
        )
    if "numpy" in against and problem.dtype != "float32":
        raise UsageError(
            f"dtype={problem.dtype}: numpy has fast products in float32 alone; use torch"
        )


def _chosen(
    problem: Problem, target: Target, database: Database, workload: Workload
) -> tuple[Selection, Entrant]:
    """What a user would run: the selected variant, compiled for what it was selected for."""
    selection = best_config(problem, workload.tokens, workload.load, target, database)
    variant = make(selection.template, selection.config)
    binary = compile_source(render(problem, variant).text, selection.target)
    return selection, Entrant(binary.path, variant.pack)


@dataclass
class _Cell:
    """The contestants of one problem; `run` is one workload. Worker and name 0 are ours."""

    problem: Problem
    target: Target
    workers: Sequence[Worker]
    names: Sequence[str]
    ceilings: Ceilings
    report: Report

    def run(self, workload: Workload, selection: Selection, entrant: Entrant) -> list[PeerRow]:
        """The rows of one workload, one a peer."""
        label = f"{self.problem.name or 'layer'}, T={workload.tokens} {workload.load}"
        self.report(f"{label}: {selection.match}, {selection.variant}")
        entries = [self._enter(0, workload, entrant)]
        for number in range(1, len(self.names)):
            self.report(f"{label}: {self.names[number]} checks its answer, tries its forms")
            entries.append(self._enter(number, workload))
        self.report(f"{label}: timing")
        race = self._race()
        temperature = "cold" if workload.tokens <= DECODE_TOKENS else "warm"
        timing = Timing(race, entries[0].flops, entries[0].read_bytes, temperature)
        return [
            self._row(timing, number, workload, selection, entries[number].form)
            for number in range(1, len(self.names))
        ]

    def _enter(self, number: int, workload: Workload, entrant: Entrant | None = None) -> Entry:
        entry: Entry = self.workers[number].ask(
            "enter", self.names[number], workload, entrant, timeout_s=ASK_S
        )
        return entry

    def _race(self) -> Race:
        """Rounds of one sample each; again when other processes took part of the machine."""
        for redone in range(RETRIES + 1):
            before = self._processor_seconds()
            times, probes = self._rounds()
            after = self._processor_seconds()
            wall, foreign = (b - a for a, b in zip(before, after, strict=True))
            share = max(0.0, foreign / (wall * (os.cpu_count() or 1)))
            race = Race(tuple(map(tuple, times)), tuple(probes), share, redone)
            if share <= FOREIGN_LIMIT:
                break
            self.report(f"other processes took {share:.0%} of the machine")
        return race

    def _rounds(self) -> tuple[list[list[int]], list[float]]:
        times: list[list[int]] = [[] for _ in self.workers]
        probes = []
        end = time.perf_counter() + EFFORT.budget_s
        for number in range(EFFORT.most_rounds):
            for turn in range(len(self.workers)):
                who = (turn + number) % len(self.workers)
                sample: Sample = self.workers[who].ask("sample", number, timeout_s=ASK_S)
                times[who].append(sample.ns)
                if who == 0 and sample.read_gb_s:
                    probes.append(sample.read_gb_s)
            if number + 1 >= EFFORT.least_rounds and (
                time.perf_counter() > end or _known(Race(tuple(map(tuple, times))))
            ):
                break
        return times, probes

    def _processor_seconds(self) -> tuple[float, float]:
        """Wall time, and processor time of whatever does not belong to this comparison."""
        with open("/proc/stat") as file:
            fields = [float(value) for value in file.readline().split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        own = time.process_time()
        for worker in self.workers:
            own += worker.ask("processor_seconds", timeout_s=ASK_S)
        return time.perf_counter(), busy - own

    def _row(
        self, timing: Timing, number: int, workload: Workload, selection: Selection, form: str
    ) -> PeerRow:
        ours = trial.measurement(timing, 0, self.ceilings, self.target, self.problem)
        ratio = timing.race.ratio(number)
        return PeerRow(
            tokens=workload.tokens,
            load=workload.load,
            peer=self.names[number],
            variant=selection.variant,
            match=selection.match,
            ours_median_ns=ours.median_ns,
            peer_median_ns=timing.race.time(number).value,
            ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            gflop_s=ours.gflop_s or 0.0,
            gb_s=ours.gb_s or 0.0,
            ceiling=ours.ceiling,
            ceiling_fraction=ours.ceiling_fraction or 0.0,
            temperature=timing.temperature,
            form=form,
            foreign=timing.race.foreign,
        )


def _known(race: Race) -> bool:
    """Whether every peer's ratio is precise enough."""
    peers = range(1, len(race.times_ns))
    return all(race.ratio(peer).spread < EFFORT.precision for peer in peers)
