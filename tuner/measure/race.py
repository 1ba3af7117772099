"""Benchmark: raw samples of kernels that run in turn, under the same conditions.

A round calls every kernel once on the same tokens, starting with another one each time. For cold
weights a probe reads a large buffer before each call: it empties the caches and tells the read
bandwidth of that very moment. For warm ones it multiplies registers once a round and tells the
peak of that moment: a virtual machine may lose half of a core for seconds. Rounds go on until the
ratios to the first kernel are known well enough. That first kernel, the default, is in every race:
it is the sentinel that drifts with the machine, and only ratios to it are compared across races.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tuner.host.interference import FOREIGN_LIMIT, ForeignMeter
from tuner.intervals import Median, median

Call = Callable[[int], None]
# Nanoseconds of one call on the tokens of a round.
Clock = Callable[[Call, int], float]

# Up to this many tokens a layer is decoding: its weights come from memory each time.
DECODE_TOKENS = 16


@dataclass(frozen=True)
class Effort:
    """When a race stops: after `budget_s`, when every ratio is known to within `precision`, or, from
    `first_rounds` on, when every candidate has lost.

    A candidate has lost when the interval of its ratio to the first kernel lies wholly above `reach`.
    That is the race of Maron and Moore (Hoeffding Races, NIPS 1993) with the sign test's interval in
    place of Hoeffding's: it assumes nothing of the samples, and after three rounds is their range.
    """

    budget_s: float = 1.0
    first_rounds: int = 3
    least_rounds: int = 7
    most_rounds: int = 200
    precision: float = 0.005
    reach: float = math.inf


# Surely slower than this many times the default: such a variant is never a finalist.
SLOW = 1.15
TRIAL_EFFORT = Effort(budget_s=1.0)
FINAL_EFFORT = Effort(budget_s=4.0, first_rounds=15, least_rounds=15, precision=0.003)


@dataclass(frozen=True)
class Race:
    """Samples of several kernels: `times_ns[i]` are kernel i's, round by round.

    `probe_gb_s` are the read probes between them (cold only), `probe_gflop_s` the peaks probed once a
    round (warm only); `foreign` is the share of the machine's processor time that other processes
    took meanwhile.
    """

    times_ns: tuple[tuple[float, ...], ...]
    probe_gb_s: tuple[float, ...] = ()
    foreign: float = 0.0
    redone: int = 0
    probe_gflop_s: tuple[float, ...] = ()

    def time(self, kernel: int) -> Median:
        """Median time of a kernel, ns."""
        return median(self.times_ns[kernel])

    def ratio(self, kernel: int, base: int = 0) -> Median:
        """Median of the paired ratios of two kernels' times; below 1 is faster than the base."""
        pairs = zip(self.times_ns[kernel], self.times_ns[base], strict=True)
        return median([a / b for a, b in pairs])

    def percentile(self, kernel: int, percent: float) -> float:
        """A percentile of a kernel's times, ns."""
        return float(np.percentile(self.times_ns[kernel], percent))

    @property
    def read_gb_s(self) -> float:
        """Median read bandwidth during the race; 0 when it wasn't probed."""
        return float(np.median(self.probe_gb_s)) if self.probe_gb_s else 0.0

    @property
    def peak_gflop_s(self) -> float:
        """The highest peak during the race; 0 when it wasn't probed.

        Not the median: after a pause the system may leave two threads on one core for a millisecond or
        two, which is all that a probe takes.
        """
        return max(self.probe_gflop_s, default=0.0)


@dataclass
class _Rounds:
    times: list[list[float]]
    probes: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


def host_clock(call: Call, number: int) -> int:
    """A call by this process's clock, ns."""
    start = time.perf_counter_ns()
    call(number)
    return time.perf_counter_ns() - start


def race(
    calls: Sequence[Call],
    effort: Effort,
    probe: Callable[[], float] | None = None,
    retries: int = 2,
    peak: Callable[[], float] | None = None,
    clock: Clock = host_clock,
) -> Race:
    """Runs the calls in turn; `calls[i](round)` is one call of kernel i on the round's tokens.

    `probe` runs before each call, `peak` before each round. `clock` times a call: that of this process, or a
    device's own.

    When other processes took more than FOREIGN_LIMIT of the machine, it is run again, at most
    `retries` times; the last race is returned with what disturbed it. Run again, nobody has lost before
    `least_rounds`: three rounds beside others may all fall into the time slices of these.
    """
    attempt = 0
    while True:
        meter = ForeignMeter()
        rounds = _rounds(calls, effort, probe, peak, clock)
        foreign = meter.share()
        if foreign <= FOREIGN_LIMIT or attempt == retries:
            break
        attempt += 1
        effort = replace(effort, first_rounds=max(effort.first_rounds, effort.least_rounds))
    times = tuple(tuple(row) for row in rounds.times)
    return Race(times, tuple(rounds.probes), foreign, attempt, tuple(rounds.peaks))


def _rounds(
    calls: Sequence[Call],
    effort: Effort,
    probe: Callable[[], float] | None,
    peak: Callable[[], float] | None,
    clock: Clock,
) -> _Rounds:
    for call in calls:  # first calls map pages and start threads
        call(0)
    state = _Rounds([[] for _ in calls])
    end = time.perf_counter() + effort.budget_s
    for number in range(effort.most_rounds):
        if peak is not None:
            state.peaks.append(peak())
        for i in range(len(calls)):
            kernel = (i + number) % len(calls)
            if probe is not None:
                state.probes.append(probe())
            state.times[kernel].append(clock(calls[kernel], number))
        enough = number + 1 >= effort.least_rounds
        if enough and time.perf_counter() > end:
            break
        if number + 1 >= effort.first_rounds and _known(state, effort, enough):
            break
    return state


def _known(state: _Rounds, effort: Effort, enough: bool) -> bool:
    """Whether more rounds would change nothing: every ratio is out of reach, or (with `enough`
    rounds) precise."""
    if len(state.times) == 1:
        return enough and median(state.times[0]).spread < effort.precision
    ratios = (
        median([a / b for a, b in zip(row, state.times[0], strict=True)]) for row in state.times[1:]
    )
    return all(r.low > effort.reach or (enough and r.spread < effort.precision) for r in ratios)
