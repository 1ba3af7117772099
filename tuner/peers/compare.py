"""Peers: our tuned layer side by side with other libraries, interleaved in one run.

Each contestant lives in a child process of its own; they are asked in turn, one sample each a
round, starting with another one each time. Ratios are paired round by round.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.errors import UsageError
from tuner.host.interference import FOREIGN_LIMIT
from tuner.measure.bench import Entrant, Timing
from tuner.measure.metrics import measurement
from tuner.measure.race import DECODE_TOKENS, Effort, Race
from tuner.peers.contestant import OUR_COPIES, ReadyContestant, Sample
from tuner.peers.contestant_process import ContestantProcess
from tuner.peers.table import PEERS
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.select import best_config
from tuner.select.selection import Selection
from tuner.space.variant import make
from tuner.store.database import Database
from tuner.target import Target
from tuner.target.roofline import Ceilings

OURS = "ours"
EFFORT = Effort(budget_s=4.0, least_rounds=6, most_rounds=60, precision=0.01)
RETRIES = 2
SEED = 0

Report = Callable[[str], None]


@dataclass(frozen=True)
class PeerRow:
    """One peer at one workload. `ratio` is its time / ours, paired: above 1 we are faster.

    `variant` and `match` tell which kernel ran and how it was chosen; `form` which of the peer's
    forms was the fastest, `forms` the median ns of each in the trials that found it. Rates and
    `ceiling_fraction` are ours; `ceiling` is fma, dot or read. Where the peer cannot run, `refused`
    says why, and its time and ratio are 0. `version` is the peer's; `peer_low_ns` and `peer_high_ns` are
    the interval of its median, None in rows of before they were kept.
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
    forms: Mapping[str, float] = field(default_factory=dict)
    refused: str = ""
    version: str = ""
    peer_low_ns: float | None = None
    peer_high_ns: float | None = None


def installed() -> tuple[str, ...]:
    """The peers that can run here."""
    return tuple(name for name, peer in PEERS.items() if not peer.lacking())


def copies(problem: Problem, against: Sequence[str]) -> float:
    """Copies of the weights that a comparison holds at most, in all its processes."""
    running = [PEERS[name] for name in against if not PEERS[name].refusal(problem)]
    return OUR_COPIES + sum(peer.copies for peer in running)


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

    Up to DECODE_TOKENS the weights are cold, beyond they are warm. A peer that cannot run the
    problem has rows that say why.

    Raises:
        UsageError: a peer that is not known or not installed, or no tokens.
        PeerError: a contestant computes something else than the float64 reference.
        WorkerError: a contestant's process crashed or hung.
    """
    if not tokens or min(tokens) < 1:
        raise UsageError(f"tokens={list(tokens)}: must be numbers of at least 1; give such ones")
    workloads = [Workload(count, load) for count in tokens]
    cells = compare(problem, target, database, workloads, against, report)
    return [row for rows in cells for row in rows]


def compare(
    problem: Problem,
    target: Target,
    database: Database,
    workloads: Sequence[Workload],
    against: Sequence[str],
    report: Report = lambda note: None,
    effort: Effort | None = None,
) -> Generator[list[PeerRow], None, None]:
    """The same on any workloads: the rows of each when it is done, one a peer; ``effort`` is EFFORT."""
    require(against)
    if problem.dtype != problem.weight_dtype:
        raise UsageError(
            f"weight_dtype={problem.weight_dtype}: peers have one data type; use {problem.dtype}"
        )
    chosen = [_chosen(problem, target, database, workload) for workload in workloads]
    refusals = {name: PEERS[name].refusal(problem) for name in against}
    names = (OURS, *(name for name in against if not refusals[name]))
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(ContestantProcess(problem, target, SEED)) for _ in names]
        ceilings = workers[0].ceilings()
        cell = _Comparison(problem, target, workers, names, ceilings, report, effort or EFFORT)
        for workload, (selection, entrant) in zip(workloads, chosen, strict=True):
            ours, ran = cell.run(workload, selection, entrant)
            yield [
                ran[name] if name in ran else replace(ours, peer=name, refused=refusals[name])
                for name in against
            ]


def require(against: Sequence[str]) -> None:
    """Raises UsageError unless these peers are known and installed, each once, and there is one."""
    known = ", ".join(PEERS)
    for name in against:
        if name not in PEERS:
            raise UsageError(f"peer {name!r}: not known; use {known}")
        if name not in installed():
            lacking = " and ".join(PEERS[name].lacking())
            mend = "pip install 'moetune[compare]', or leave it out"
            raise UsageError(f"peer {name!r}: {lacking} is not installed; {mend}")
    if not against:
        raise UsageError(f"peers: none given; use {known}")
    if len(set(against)) < len(against):
        raise UsageError(f"peers {', '.join(against)}: one is given twice; name each once")


def _chosen(
    problem: Problem, target: Target, database: Database, workload: Workload
) -> tuple[Selection, Entrant]:
    """What a user would run: the selected variant, compiled for what it was selected for."""
    selection = best_config(
        problem, workload.tokens, workload.load, target, database, installed=True
    )
    variant = make(selection.template, selection.config)
    binary = compile_source(render(problem, variant).text, selection.target)
    return selection, Entrant.of(variant, binary.path)


@dataclass
class _Comparison:
    """The contestants of one problem; `run` is one workload. Worker and name 0 are ours."""

    problem: Problem
    target: Target
    workers: Sequence[ContestantProcess]
    names: Sequence[str]
    ceilings: Ceilings
    report: Report
    effort: Effort

    def run(
        self, workload: Workload, selection: Selection, entrant: Entrant
    ) -> tuple[PeerRow, dict[str, PeerRow]]:
        """A row of ours alone, and the row of each peer."""
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
        ours = self._ours(timing, workload, selection)
        numbers = range(1, len(self.names))
        return ours, {
            self.names[n]: _row(ours, timing, n, entries[n], self.names[n]) for n in numbers
        }

    def _enter(
        self, number: int, workload: Workload, entrant: Entrant | None = None
    ) -> ReadyContestant:
        return self.workers[number].enter(self.names[number], workload, entrant)

    def _race(self) -> Race:
        """Rounds of one sample each; again when other processes took part of the machine."""
        for redone in range(RETRIES + 1):
            before = self._processor_seconds()
            times, samples = self._rounds()
            after = self._processor_seconds()
            wall, foreign = (b - a for a, b in zip(before, after, strict=True))
            share = max(0.0, foreign / (wall * (os.cpu_count() or 1)))
            race = Race(
                times_ns=tuple(map(tuple, times)),
                probe_gb_s=tuple(s.read_gb_s for s in samples if s.read_gb_s),
                foreign=share,
                redone=redone,
                probe_gflop_s=tuple(s.gflop_s for s in samples if s.gflop_s),
            )
            if share <= FOREIGN_LIMIT:
                break
            self.report(f"other processes took {share:.0%} of the machine")
        return race

    def _rounds(self) -> tuple[list[list[int]], list[Sample]]:
        """Every contestant's times, and our samples."""
        times: list[list[int]] = [[] for _ in self.workers]
        ours: list[Sample] = []
        end = time.perf_counter() + self.effort.budget_s
        for number in range(self.effort.most_rounds):
            for turn in range(len(self.workers)):
                who = (turn + number) % len(self.workers)
                sample = self.workers[who].sample(number)
                times[who].append(sample.ns)
                ours += [sample] if who == 0 else []
            known = _known(Race(tuple(map(tuple, times))), self.effort.precision)
            if number + 1 >= self.effort.least_rounds and (time.perf_counter() > end or known):
                break
        return times, ours

    def _processor_seconds(self) -> tuple[float, float]:
        """Wall time, and processor time of whatever does not belong to this comparison."""
        with open("/proc/stat") as file:
            fields = [float(value) for value in file.readline().split()[1:9]]
        busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
        own = time.process_time()
        for worker in self.workers:
            own += worker.processor_seconds()
        return time.perf_counter(), busy - own

    def _ours(self, timing: Timing, workload: Workload, selection: Selection) -> PeerRow:
        ours = measurement(timing, 0, self.ceilings, self.target, self.problem)
        return PeerRow(
            tokens=workload.tokens,
            load=workload.load,
            peer="",
            variant=selection.variant,
            match=selection.match,
            ours_median_ns=ours.median_ns,
            peer_median_ns=0.0,
            ratio=0.0,
            ratio_low=0.0,
            ratio_high=0.0,
            gflop_s=ours.gflop_s or 0.0,
            gb_s=ours.gb_s or 0.0,
            ceiling=ours.ceiling,
            ceiling_fraction=ours.ceiling_fraction or 0.0,
            temperature=timing.temperature,
            foreign=timing.race.foreign,
        )


def _row(ours: PeerRow, timing: Timing, number: int, entry: ReadyContestant, name: str) -> PeerRow:
    ratio, theirs = timing.race.ratio(number), timing.race.time(number)
    return replace(
        ours,
        peer=name,
        version=PEERS[name].version(),
        peer_median_ns=theirs.value,
        peer_low_ns=theirs.low,
        peer_high_ns=theirs.high,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        form=entry.form,
        forms=entry.forms,
    )


def _known(race: Race, precision: float) -> bool:
    """Whether every peer's ratio is precise enough."""
    peers = range(1, len(race.times_ns))
    return all(race.ratio(peer).spread < precision for peer in peers)
