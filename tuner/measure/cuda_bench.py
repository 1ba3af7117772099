"""The bench of a GPU: packed weights in its memory, programs and right answers of one problem and card.

Every call is replayed as a graph and timed between two events of the device, the L2 cache emptied before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tuner.errors import DeviceError
from tuner.gpu import ptx
from tuner.gpu.device import opened, target_of
from tuner.gpu.driver import Address, Device
from tuner.gpu.kernel import GpuKernel, upload
from tuner.gpu.pack import Packing
from tuner.gpu.program import layer_program
from tuner.measure import gpu_peak, right_answers, verify
from tuner.measure.bench import Entrant, Timing
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.measure.metrics import drawn_work
from tuner.measure.race import Call, Effort, race
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload
from tuner.target import Target
from tuner.target.roofline import GpuCeilings

# Calls of each kernel before a race: the card's clocks rise, and its caches of instructions fill.
WARM_UPS = 3


class Uploads:
    """Where a layer's weights lie on a card, copied there once for each packed form that programs read."""

    def __init__(
        self, device: Device, pack: Callable[[Packing], Mapping[str, NDArray[Any]]]
    ) -> None:
        self._device, self._pack = device, pack
        self._places: dict[str, dict[str, Address]] = {}

    def of(self, packing: Packing) -> Mapping[str, Address]:
        """The addresses of the packed arrays by name."""
        if packing.digest not in self._places:
            self._places[packing.digest] = upload(self._device, self._pack(packing))
        return self._places[packing.digest]


class CudaBench:
    """A card with one layer's weights; see ``tuner.measure.bench.Bench``."""

    def __init__(
        self, bench: GpuBench, seed: int, answers: right_answers.AnswerSource, dense: Path
    ) -> None:
        """`dense` is the program whose dense product is the arithmetic ceiling."""
        self.gpu, self.problem, self.seed = bench, bench.problem, seed
        self._answers, self._dense = answers, dense
        self._kernels: dict[Path, GpuKernel] = {}

    def kernel(self, path: Path) -> GpuKernel:
        """A program, loaded once."""
        if path not in self._kernels:
            program = layer_program(self.problem, path.read_text(), path.stem)
            self._kernels[path] = GpuKernel(self.gpu.device, program)
        return self._kernels[path]

    def ceilings(self) -> GpuCeilings:
        """The card's bandwidths and its dense product now."""
        dense, dtype = self._dense.read_text(), self.problem.dtype
        rate = gpu_peak.gflop_s(self.gpu.device, dense, dtype, self.gpu.probe)
        return GpuCeilings(self.gpu.copy_gb_s(), self.gpu.read_gb_s(), rate)

    def verify(self, entrant: Entrant, tokens: int) -> verify.Verdict:
        """The verdict on a program."""
        kernel, worst = self.kernel(entrant.path), 0.0
        cases = right_answers.cases(self.problem, tokens, entrant.ragged, self.seed)
        for number, expected in enumerate(self._answers.of(cases), start=1):
            wrong, error = self.gpu.check(kernel, expected)
            worst = max(worst, error)
            if wrong:
                case = expected.case
                message = f"T={case.tokens} {case.load}: {wrong}"
                return verify.Verdict(False, message, worst, number)
        return verify.Verdict(True, "", worst, len(cases))

    def race(
        self,
        entrants: Sequence[Entrant],
        workload: Workload,
        effort: Effort,
        temperature: str = "auto",
    ) -> Timing:
        """Times programs in turn on one workload, always cold: a model's other layers come between."""
        ready = [self.gpu.ready(self.kernel(e.path), workload, self.seed) for e in entrants]
        for work, _ in ready * WARM_UPS:
            self.gpu.timed(work)
        calls = [_call(work) for work, _ in ready]
        raced = race(
            calls,
            effort,
            retries=0,
            clock=lambda call, number: self.gpu.timed(lambda: call(number)),
        )
        for _, arena in ready:
            arena.free()
        # What other processes do with the cores is no matter of the card's.
        flops, read_bytes = drawn_work(self.problem, workload, self.seed)
        return Timing(dataclasses.replace(raced, foreign=0.0), flops, read_bytes, "cold")


def _call(work: Callable[[], None]) -> Call:
    """The same work in each round."""
    return lambda number: work()


def open_here(problem: Problem, target: Target, seed: int, probe: Path, dense: Path) -> CudaBench:
    """The bench of a card of this machine. Raises DeviceError where the target's card is not here."""
    device = of_target(target)
    weights = Weights.random(problem, seed).check(problem)
    uploads = Uploads(device, lambda packing: packing.pack(weights))
    gpu = GpuBench(device, problem, uploads.of, GpuProbe(device, ptx.parse(probe.read_text())))
    answers = right_answers.Answers(problem, weights)
    return CudaBench(gpu, seed, answers, dense)


def of_target(target: Target) -> Device:
    """The GPU of this machine that a target names. Raises DeviceError where it is another one, or none."""
    device = opened("cuda")
    here = target_of(device)
    if (here.arch, here.accelerator) != (target.arch, target.accelerator):
        raise DeviceError(
            f"--target {target.accelerator}: the GPU here is {device.name}; name {here.accelerator}, "
            "or hide it by CUDA_VISIBLE_DEVICES and make a job folder with --offline"
        )
    return device
