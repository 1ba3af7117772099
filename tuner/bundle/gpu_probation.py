"""The part of an install's child process that runs a bundle's programs for the first time on a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuner.bundle import selftest
from tuner.bundle.catalogue import BundleCatalogue
from tuner.bundle.choose import ladder
from tuner.bundle.manifest import BundledBuild, Evidence
from tuner.bundle.reader import read_bundle
from tuner.bundle.speed import cells, compared
from tuner.gpu import ptx
from tuner.gpu.device import opened, target_of
from tuner.gpu.driver import Address
from tuner.gpu.kernel import GpuKernel
from tuner.gpu.pack import Packing
from tuner.gpu.program import layer_program
from tuner.gpu.weights import GpuWeights
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.problem.workload import (
    Workload,
    pairs_per_expert,
    route_by_load,
    weight_bytes_read,
)

_WARM_UPS, _ROUNDS = 3, 15


class GpuProbation:
    """The parts of one problem that run on a GPU, the best first, and the self-test's weights in its memory."""

    def __init__(self, path: Path, sha256: str, digest: str, name: str) -> None:
        bundle = read_bundle(path, f"sha256:{sha256}")
        section = next(s for s in bundle.manifest.sections if s.problem.digest == digest)
        self.problem, self.seed = section.problem, section.selftest.seed
        device = opened(name)
        host = target_of(device)
        parts = ladder(section.parts, host)
        self.catalogues = [BundleCatalogue(bundle, section, part, host) for part in parts]
        self._given, self._expected = selftest.material(section, bundle.archive)
        self._packed: dict[str, GpuWeights] = {}
        first = self.catalogues[0]
        probe = GpuProbe(device, ptx.parse(first.member(first.part.probe).read_text()))
        self._bench = GpuBench(device, self.problem, self._weights, probe)
        self._kernels: dict[str, GpuKernel] = {}

    def report(self, what: str) -> dict[str, Any]:
        """What became of the `first` part, of `all` that run here, or of the first `timed`; see `Probation`."""
        tested = self.catalogues if what == "all" else self.catalogues[:1]
        answers = [self._answers(catalogue) for catalogue in tested]
        told = {"parts": answers, "speed": [], "taken": answers[0]["arch"]}
        if what == "timed" and not answers[0]["message"]:
            ceilings, first = self._bench.ceilings(), self.catalogues[0]
            told["speed"] = [self._speed(first, row, ceilings) for row in cells(first.part)]
        return told

    def _answers(self, catalogue: BundleCatalogue) -> dict[str, Any]:
        """Every program of a part against the float64 answers."""
        worst = 0.0
        for build in catalogue.part.builds.values():
            kernel = self._kernel(catalogue, build)
            for expected in self._expected:
                message, error = self._bench.check(kernel, expected)
                worst = max(worst, error)
                if message:
                    case = expected.case
                    said = f"{build.variant}: T={case.tokens} {case.load}: {message}"
                    return _told(catalogue, worst, said)
        return _told(catalogue, worst, "")

    def _kernel(self, catalogue: BundleCatalogue, build: BundledBuild) -> GpuKernel:
        if build.binary not in self._kernels:
            text = catalogue.member(build.binary).read_text()
            program = layer_program(self.problem, text, build.variant)
            self._kernels[build.binary] = GpuKernel(self._bench.device, program)
        return self._kernels[build.binary]

    def _weights(self, packing: Packing) -> Mapping[str, Address]:
        """Where the self-test's weights lie, packed once for each form that programs read."""
        if packing.digest not in self._packed:
            device = self._bench.device
            self._packed[packing.digest] = GpuWeights(device, self.problem, packing, self._given)
        return self._packed[packing.digest].addresses

    def _speed(
        self, catalogue: BundleCatalogue, row: Evidence, ceilings: dict[str, float]
    ) -> dict[str, Any]:
        """One measured workload again, as jobs measure: a graph, the L2 cache flushed before each.

        Its fraction is of the ceiling that the shipped one is of.
        """
        workload = Workload(row.tokens, row.load)
        kernel = self._kernel(catalogue, catalogue.part.builds[row.variant])
        work, arena = self._bench.ready(kernel, workload, self.seed)
        times = [self._bench.timed(work) for _ in range(_WARM_UPS + _ROUNDS)][_WARM_UPS:]
        arena.free()
        counts = pairs_per_expert(self.problem, route_by_load(self.problem, workload, self.seed)[0])
        read = weight_bytes_read(self.problem, counts)
        ceiling = ceilings.get(str(row.row.get("ceiling")), max(ceilings.values()))
        return compared(row, float(read / ceiling / np.median(times)), 0.0)


def _told(catalogue: BundleCatalogue, worst: float, message: str) -> dict[str, Any]:
    known = worst if math.isfinite(worst) else None
    return {"arch": catalogue.part.target.label, "worst": known, "message": message}
