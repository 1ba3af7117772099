"""Contestant: what a child process of a side by side comparison holds, ours or a peer.

Every contestant lives in a process of its own, as thread pools in one process slow each other
down. All make the same weights, tokens and routing from the same seeds, and sample alike: one call
that is not timed (threads awake, code warm; left out between calls of half a second, which it
would not change), for decode an eviction of the caches, one timed call, then a wait until the
threads are asleep, so that the next contestant has the machine for itself.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tuner.codegen import probes
from tuner.cpu.buffers import address, allocate
from tuner.errors import MoetuneError
from tuner.measure import right_answers
from tuner.measure.bench import Entrant
from tuner.measure.cpu_bench import INPUT_BYTES, INPUTS, CpuBench
from tuner.measure.race import DECODE_TOKENS
from tuner.peers.peer import Floats, Form, PeerLayer, Routing
from tuner.peers.table import PEERS
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.dtypes import DTYPES
from tuner.problem.workload import (
    Workload,
    flops,
    pairs_per_expert,
    route_by_load,
    weight_bytes_read,
)
from tuner.target import Target
from tuner.target.roofline import Ceilings

# Copies of the weights that we hold: as given, and packed for a kernel.
OUR_COPIES = 2
# Calls of each of a peer's forms to find the fastest, fewer where they take longer than this.
TRIALS = 5
TRIAL_S = 2.0
_LONG_NS = 500_000_000
# The probe's threads spin for 0.2 ms after it; a sample must not share the cores with them. The
# pools of BLAS and OpenMP spin longer, so peers start awake; ours has to be woken.
_PROBE_SPIN_S = 0.0005
# Processor time is counted in ticks of up to 10 ms: a shorter step sees none where there is some.
_QUIET_STEP_S = 0.01
_QUIET_MOST_S = 0.5


class PeerError(MoetuneError):
    """A contestant's answer is wrong, so its time means nothing."""


@dataclass(frozen=True)
class ReadyContestant:
    """A contestant that is ready: the form it runs, its relative error; of a peer the median of
    every form's trials, ns; of ours the work of one call, a mean over the inputs."""

    form: str
    error: float
    flops: float = 0.0
    read_bytes: float = 0.0
    forms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One timed call in ns, and just before it the read bandwidth (decode only, else 0) or the peak
    rate (ours only, where it is not decode, else 0)."""

    ns: int
    read_gb_s: float = 0.0
    gflop_s: float = 0.0


class Contestant:
    """The state of one child; `worker.serve` calls its methods."""

    def __init__(self, problem: Problem, target: Target, seed: int) -> None:
        self.problem, self.target, self.seed = problem, target, seed
        self._bench = CpuBench(problem, target, seed, probes.of_cpu, most_packed=1)
        self._call: Form = _nothing
        self._asleep = True
        self._peer: PeerLayer | None = None

    def ceilings(self) -> Ceilings:
        return self._bench.probe.ceilings()

    def processor_seconds(self) -> float:
        """What this process has used so far."""
        return time.process_time()

    def enter(
        self, name: str, workload: Workload, entrant: Entrant | None = None
    ) -> ReadyContestant:
        """Gets ready for a workload: checks every form against the float64 reference, takes the
        fastest. Raises PeerError when a form is wrong."""
        self._take(_nothing)  # which frees what the last workload packed
        self._workload = workload
        self._xs, self._routing = _inputs(self.problem, workload, self.seed)
        self._expected = self._answer()
        if entrant is not None:
            ours = _Ours(self._bench, entrant, workload.tokens)
            error = self._check(name, ours)
            self._take(ours)
            return ReadyContestant(entrant.path.parent.name, error, *self._work(ours))
        forms = self._forms(name)
        error = max(self._check(f"{name}, {form}", call) for form, call in forms.items())
        times = {form: self._trial(call) for form, call in forms.items()}
        best = min(times, key=times.__getitem__)
        self._take(forms[best])
        return ReadyContestant(best, error, forms=times)

    def sample(self, number: int) -> Sample:
        """One timed call on the tokens of a round."""
        call = self._ready(*self._pick(number))
        cold = self._workload.tokens <= DECODE_TOKENS
        gflop_s = self._probed(self._bench.peak) if self._peer is None and not cold else 0.0
        if self._asleep:
            call()
        read_gb_s = self._probed(self._bench.probe.read_gb_s) if cold else 0.0
        start = time.perf_counter_ns()
        call()
        elapsed = time.perf_counter_ns() - start
        self._asleep = elapsed < _LONG_NS
        _wait_until_idle()
        return Sample(elapsed, read_gb_s, gflop_s)

    def _probed(self, probe: Callable[[], float]) -> float:
        """What a probe says, once its threads are out of the way; that of reads empties the caches."""
        value = probe()
        time.sleep(_PROBE_SPIN_S)
        return value

    def _pick(self, number: int) -> tuple[Floats, Routing | None]:
        index = number % len(self._xs)
        return self._xs[index], self._routing[index] if self._routing else None

    def _ready(self, x: Floats, routing: Routing | None) -> Callable[[], object]:
        """The call with its arguments; ours looks nothing up in it."""
        if isinstance(self._call, _Ours):
            return self._call.ready(x, routing)
        return functools.partial(self._call, x, routing)

    def _forms(self, name: str) -> Mapping[str, Form]:
        if self._peer is None:
            self._peer = PEERS[name].make(self.problem, self._bench.weights, self.target.cores)
        return self._peer.forms()

    def _take(self, call: Form) -> None:
        """Samples are of this call from now on."""
        self._call, self._asleep = call, True

    def _trial(self, call: Form) -> float:
        """Median time of some calls, ns."""
        self._take(call)
        times: list[int] = []
        end = time.perf_counter() + TRIAL_S
        while not times or (len(times) < TRIALS and time.perf_counter() < end):
            times.append(self.sample(len(times)).ns)
        return float(np.median(times))

    def _answer(self) -> right_answers.Expected:
        """What every form has to compute on this workload."""
        load = self._workload.load if self._routing else "router"
        case = right_answers.Case(self._workload.tokens, load, self.seed)
        return right_answers.expect(self.problem, self._bench.weights, case)

    def _check(self, name: str, call: Form) -> float:
        """Relative error of a call; tokens whose routing is a tie are left out."""
        expected, case = self._expected, self._expected.case
        given = expected.indices, expected.weights.astype(np.float32)
        y = call(expected.x, given if expected.routed else None)[expected.rows].astype(np.float64)
        sure = ~expected.ties[expected.rows]
        error = np.linalg.norm(y - expected.y, axis=1) / np.linalg.norm(expected.y, axis=1)
        worst = float(error[sure].max(initial=0.0))
        # A peer may add its k rows in 16 bits, which ours doesn't.
        most = expected.tolerance * (1 if DTYPES[self.problem.dtype].bytes >= 4 else 4)
        if not worst <= most:
            raise PeerError(
                f"{name}: relative error {worst:.2e} at T={case.tokens} {case.load}, "
                f"at most {most:.0e} is right; its time would mean nothing"
            )
        return worst

    def _work(self, ours: _Ours) -> tuple[float, float]:
        """Operations and least bytes of one call, as routed."""
        work = []
        for number in range(len(self._xs)):
            x, routing = self._pick(number)
            ours(x, routing)
            counts = pairs_per_expert(self.problem, routing[0] if routing else ours.indices)
            tokens = self._workload.tokens
            work.append(
                (flops(self.problem, counts, tokens), weight_bytes_read(self.problem, counts))
            )
        mean_flops, mean_bytes = np.mean(work, axis=0)
        return float(mean_flops), float(mean_bytes)


class _Ours:
    """A compiled kernel in the form of a peer."""

    def __init__(self, bench: CpuBench, entrant: Entrant, tokens: int) -> None:
        problem = bench.problem
        self._kernel = bench.kernel(entrant)
        self._packed = bench.packed(self._kernel, entrant.pack)
        self._size = self._kernel.scratch_bytes(tokens) // 4 + 1
        self._scratch = allocate(self._size) if self._kernel.scratch_keep else None
        dtype = NUMPY_DTYPES[problem.dtype]
        self._y = allocate(tokens * problem.hidden, dtype).reshape(tokens, problem.hidden)
        self.indices = np.zeros((tokens, problem.top_k), np.int32)
        self._weights = np.zeros((tokens, problem.top_k), np.float32)

    def __call__(self, x: Floats, routing: Routing | None) -> Floats:
        indices, weights = (self.indices, self._weights) if routing is None else routing
        scratch = allocate(self._size) if self._scratch is None else self._scratch
        routed = routing is not None
        self._kernel.run(self._packed, x, self._y, indices, weights, scratch, routed)
        return self._y

    def ready(self, x: Floats, routing: Routing | None) -> Callable[[], None]:
        """A call that has run before, without the look for addresses."""
        indices, weights = (self.indices, self._weights) if routing is None else routing
        kept, fresh = (0, self._size) if self._scratch is None else (address(self._scratch), 0)
        bound = self._kernel.bind(self._packed, routing is not None)
        places = address(x), address(self._y), kept, address(indices), address(weights)
        return bound.ready(len(x), *places, fresh)


def _inputs(
    problem: Problem, workload: Workload, seed: int
) -> tuple[list[Floats], list[Routing] | None]:
    """Tokens of some calls; their routing where the load is imposed (uniform: the router's own)."""
    rng = np.random.default_rng(seed + 1)
    shape = (workload.tokens, problem.hidden)
    count = max(1, min(INPUTS, INPUT_BYTES // (4 * shape[0] * shape[1])))
    drawn = (rng.standard_normal(shape, dtype=np.float32) for _ in range(count))
    xs = [x.astype(NUMPY_DTYPES[problem.dtype], copy=False) for x in drawn]
    if workload.load == "uniform":
        return xs, None
    return xs, [route_by_load(problem, workload, seed + i) for i in range(count)]


def _nothing(x: Floats, routing: Routing | None) -> Floats:
    raise PeerError("no workload was entered, so there is nothing to sample; enter one")


def _wait_until_idle() -> None:
    """Thread pools of BLAS and OpenMP spin after a call: wait until they sleep."""
    end = time.perf_counter() + _QUIET_MOST_S
    used = time.process_time()
    while time.perf_counter() < end:
        time.sleep(_QUIET_STEP_S)
        before, used = used, time.process_time()
        if used - before < _QUIET_STEP_S / 10:
            return
