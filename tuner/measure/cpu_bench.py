"""The bench of a CPU: weights, packed weights, kernels, references and the probe of one problem and target.

All of it is made from a Problem and a seed on first use, so a process that was started again after
a crash goes on where the other stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tuner.cpu.buffers import address, allocate
from tuner.cpu.kernel import Kernel, Packed
from tuner.host.cores import pool_size
from tuner.measure import right_answers, verify
from tuner.measure.bench import Entrant, Timing, is_cold
from tuner.measure.probe import Probe
from tuner.measure.race import Call, Effort, race
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights
from tuner.problem.workload import (
    Workload,
    flops,
    pairs_per_expert,
    route_by_load,
    weight_bytes_read,
)
from tuner.target import Target
from tuner.target.roofline import Ceilings, multiplies_pairs

# Packed copies of the weights to hold at once: the default's and one other's.
MOST_PACKED = 2
# Loaded kernels to hold at once: each keeps its worker threads and a page for their control block.
MOST_KERNELS = 32
INPUTS = 8
INPUT_BYTES = 64 << 20


@dataclass
class CpuBench:
    """Everything that belongs to one problem, target and seed.

    `probe_library` finds the compiled probe of a target, when first something is timed.
    """

    problem: Problem
    target: Target
    seed: int
    probe_library: Callable[[Target], Path]
    most_packed: int = MOST_PACKED
    _weights: Weights | None = None
    _probe: Probe | None = None
    _packed: OrderedDict[str, Packed] = field(default_factory=OrderedDict)
    _kernels: OrderedDict[tuple[Path, int], Kernel] = field(default_factory=OrderedDict)
    _answers: right_answers.AnswerSource | None = None
    _inputs: dict[Workload, _Inputs] = field(default_factory=dict)

    @property
    def weights(self) -> Weights:
        if self._weights is None:
            self._weights = Weights.random(self.problem, self.seed).check(self.problem)
        return self._weights

    @property
    def probe(self) -> Probe:
        if self._probe is None:
            self._probe = Probe(self.target, self.probe_library(self.target))
        return self._probe

    def kernel(self, entrant: Entrant) -> Kernel:
        """A loaded kernel with its threads; the one used longest ago gives way."""
        key = entrant.path, pool_size(entrant.workers, self.target.cores)
        if key not in self._kernels:
            while len(self._kernels) >= MOST_KERNELS:
                self._kernels.popitem(last=False)
            self._kernels[key] = Kernel(entrant.path, self.problem, key[1])
        self._kernels.move_to_end(key)
        return self._kernels[key]

    def packed(self, kernel: Kernel, pack: str) -> Packed:
        """The weights in a packed form; the form used longest ago gives way."""
        if pack not in self._packed:
            while len(self._packed) >= self.most_packed:
                self._packed.popitem(last=False)
            self._packed[pack] = kernel.pack(self.weights)
        self._packed.move_to_end(pack)
        return self._packed[pack]

    def verify(self, entrant: Entrant, tokens: int) -> verify.Verdict:
        """The verdict on a kernel; right answers are worked out once for all variants."""
        kernel = self.kernel(entrant)
        packed = self.packed(kernel, entrant.pack)
        if self._answers is None:
            self._answers = right_answers.Answers(self.problem, self.weights)
        cases = right_answers.cases(self.problem, tokens, entrant.ragged, self.seed)
        return verify.verify(kernel, packed, self._answers.of(cases))

    def ceilings(self) -> Ceilings:
        return self.probe.ceilings()

    def race(
        self,
        entrants: Sequence[Entrant],
        workload: Workload,
        effort: Effort,
        temperature: str = "auto",
    ) -> Timing:
        """Times kernels in turn on one workload, on `cold` or `warm` weights; `auto`: decode is cold."""
        if workload not in self._inputs:
            self._inputs[workload] = _Inputs(self.problem, workload, self.seed)
        inputs = self._inputs[workload]
        calls = [self._call(entrant, inputs) for entrant in entrants]
        cold = is_cold(workload, temperature)
        read, peak = (self.probe.read_gb_s, None) if cold else (None, self.peak)
        result = race(calls, effort, read, peak=peak)
        mean_flops, mean_bytes = inputs.mean_work(calls[0])
        return Timing(result, mean_flops, mean_bytes, "cold" if cold else "warm")

    def peak(self) -> float:
        """The peak of this moment, in the operations that the problem can use."""
        pairs = multiplies_pairs(self.problem, self.target)
        return self.probe.dot_gflop_s(brief=True) if pairs else self.probe.fma_gflop_s(brief=True)

    def _call(self, entrant: Entrant, inputs: _Inputs) -> Call:
        """The kernel on the inputs of a round, for the clock."""
        kernel = self.kernel(entrant)
        bound = kernel.bind(
            self.packed(kernel, entrant.pack), routed=inputs.workload.load != "uniform"
        )
        tokens = inputs.workload.tokens
        size = kernel.scratch_bytes(tokens) // 4 + 1
        scratch = allocate(size)
        bound.run(tokens, *inputs.places(0, address(scratch)))  # starts the threads
        fresh = 0 if kernel.scratch_keep else size
        keep = (kernel, bound, None if fresh else scratch)
        ready = [
            (bound.ready(tokens, *inputs.places(number, address(scratch)), fresh), keep)
            for number in range(len(inputs.xs))
        ]

        def call(number: int) -> None:
            ready[number % len(ready)][0]()

        return call


class _Inputs:
    """Tokens of some calls, their routing (given, or filled by the kernel) and one output."""

    def __init__(self, problem: Problem, workload: Workload, seed: int) -> None:
        self.problem, self.workload = problem, workload
        rng = np.random.default_rng(seed + 1)
        shape = (workload.tokens, problem.hidden)
        count = max(1, min(INPUTS, INPUT_BYTES // (4 * shape[0] * shape[1])))
        dtype = NUMPY_DTYPES[problem.dtype]
        drawn = (rng.standard_normal(shape, dtype=np.float32) for _ in range(count))
        self.xs = [x.astype(dtype, copy=False) for x in drawn]
        self.y = allocate(shape[0] * shape[1], dtype).reshape(shape)
        self.routing = [route_by_load(problem, workload, seed + i) for i in range(count)]
        self._work: tuple[float, float] | None = None

    def places(self, number: int, scratch: int) -> tuple[int, int, int, int, int]:
        """Addresses of one call: tokens, output, scratch as given, indices and weights."""
        indices, weights = self.routing[number]
        chosen = address(indices), address(weights)
        return address(self.xs[number]), address(self.y), scratch, *chosen

    def mean_work(self, call: Call) -> tuple[float, float]:
        """Operations and least bytes of one call, a mean over the inputs; `call` routes them once."""
        if self._work is None:
            for number in range(len(self.xs)):
                call(number)
            work = [self._of(indices) for indices, _ in self.routing]
            mean_flops, mean_bytes = np.mean(work, axis=0)
            self._work = float(mean_flops), float(mean_bytes)
        return self._work

    def _of(self, indices: Any) -> tuple[int, int]:
        counts = pairs_per_expert(self.problem, indices)
        return (
            flops(self.problem, counts, self.workload.tokens),
            weight_bytes_read(self.problem, counts),
        )
