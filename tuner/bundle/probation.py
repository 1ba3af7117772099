"""The child process of an install: runs a bundle's kernels for the first time on this machine.

It reads the file again, pinned to the SHA-256 that its parent checked, and prints one JSON object. What
crashes here ends this process and not the one that asked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.bundle import selftest
from tuner.bundle.catalogue import BundleCatalogue
from tuner.bundle.choose import ladder
from tuner.bundle.gpu_probation import GpuProbation
from tuner.bundle.manifest import Evidence
from tuner.bundle.reader import read_bundle
from tuner.bundle.speed import SLOWER, cells, compared
from tuner.errors import MoetuneError
from tuner.measure import verify
from tuner.measure.bench import Entrant, Timing
from tuner.measure.cpu_bench import CpuBench
from tuner.measure.metrics import measurement
from tuner.measure.probe import Probe
from tuner.measure.race import Effort
from tuner.problem.workload import Workload
from tuner.target import detect
from tuner.target.roofline import Ceilings

# A part further down the ladder must be faster by this before it is taken.
WORTH = 0.97
ATTEMPTS = 3
PROBES = 5
EFFORT = Effort(budget_s=0.4, most_rounds=40)


def main() -> int:
    """Arguments: file, its SHA-256, digest of the problem, `first`, `timed` or `all`, and cpu or a GPU."""
    path, sha256, digest, what, device = sys.argv[1:]
    try:
        if device == "cpu":
            report = Probation(Path(path), sha256, digest).report(what)
        else:
            report = GpuProbation(Path(path), sha256, digest, device).report(what)
    except MoetuneError as error:
        print(json.dumps({"refused": str(error)}))
        return error.exit_code
    print(json.dumps(report, allow_nan=False))
    return 0


class Probation:
    """The parts of one problem that run here, the best first, and one copy of the self-test's weights."""

    def __init__(self, path: Path, sha256: str, digest: str) -> None:
        bundle = read_bundle(path, f"sha256:{sha256}")
        section = next(s for s in bundle.manifest.sections if s.problem.digest == digest)
        self.host = detect()
        self.problem = section.problem
        self.catalogues = [
            BundleCatalogue(bundle, section, part, self.host)
            for part in ladder(section.parts, self.host)
        ]
        weights, self._expected = selftest.material(section, bundle.archive)
        seed = section.selftest.seed
        library = self.catalogues[0].member(self.catalogues[0].part.probe)
        self._state = CpuBench(self.problem, self.host, seed, lambda _: library, _weights=weights)

    def report(self, what: str) -> dict[str, Any]:
        """What became of the `first` part, of `all` that run here, or of the first `timed`.

        `parts`: those that were run, with the first thing that was wrong; `speed`: of the first, cell by cell;
        `taken`: the label of the target to run.
        """
        first, *others = self.catalogues
        answers = [self._answers(part) for part in (self.catalogues if what == "all" else [first])]
        told = {"parts": answers, "speed": [], "taken": answers[0]["arch"]}
        if answers[0]["message"] or what != "timed":
            return told
        evidence = cells(first.part)
        speed = Speed(self._state, first)
        told["speed"] = [speed.against(row) for row in evidence]
        slow = [row for row, cell in zip(evidence, told["speed"], strict=True) if cell["slower"]]
        for other in others if slow else ():
            answers.append(self._answers(other))
            if not answers[-1]["message"] and all(speed.is_slower_than(other, row) for row in slow):
                told["taken"] = answers[-1]["arch"]
                break
        return told

    def _answers(self, catalogue: BundleCatalogue) -> dict[str, Any]:
        """Every kernel of a part against the float64 answers."""
        worst, message = 0.0, ""
        for build in catalogue.part.builds.values():
            entrant = _entrant(catalogue.member(build.binary), build.pack, build.config)
            kernel = self._state.kernel(entrant)
            packed = self._state.packed(kernel, build.pack)
            verdict = verify.verify(kernel, packed, self._expected)
            worst = max(worst, verdict.worst)
            if not verdict.ok:
                message = f"{build.variant}: {verdict.message}"
                break
        told = worst if math.isfinite(worst) else None
        return {"arch": catalogue.part.target.label, "worst": told, "message": message}


class Speed:
    """Times the kernels of one part as the tuner timed them."""

    def __init__(self, state: CpuBench, catalogue: BundleCatalogue) -> None:
        self._catalogue = catalogue
        self._target = dataclasses.replace(state.target, features=catalogue.part.target.features)
        library = catalogue.member(catalogue.part.probe)
        probe = Probe(self._target, library)
        self._state = dataclasses.replace(state, target=self._target, _probe=probe)
        # A race brings the ceiling that binds it; of the others the best of a few will do.
        self._ceilings = Ceilings(
            max(probe.fma_gflop_s() for _ in range(PROBES)),
            max(probe.read_gb_s() for _ in range(PROBES)),
            max(probe.dot_gflop_s() for _ in range(PROBES)),
        )

    def against(self, row: Evidence) -> dict[str, Any]:
        """One measured workload again: the fraction of the ceiling here and where it was tuned."""
        shipped = float(row.row["ceiling_fraction"])
        found, foreign = 0.0, 0.0
        for _ in range(ATTEMPTS):  # others on the machine only ever make a kernel slower
            found, foreign = max((found, foreign), self._fraction(row))
            if found >= SLOWER * shipped:
                break
        return compared(row, found, foreign)

    def is_slower_than(self, other: BundleCatalogue, row: Evidence) -> bool:
        """Whether another part is surely and usefully faster on this workload."""
        timing = self._race([self._entrant(self._catalogue, row), self._entrant(other, row)], row)
        return timing.race.ratio(1).high < WORTH

    def _fraction(self, row: Evidence) -> tuple[float, float]:
        """The fraction of the ceiling, and what part of the machine others took meanwhile."""
        timing = self._race([self._entrant(self._catalogue, row)], row)
        found = measurement(timing, 0, self._ceilings, self._target, self._state.problem)
        return found.ceiling_fraction or 0.0, timing.race.foreign

    def _race(self, entrants: list[Entrant], row: Evidence) -> Timing:
        temperature = str(row.row["temperature"] or "auto")
        return self._state.race(entrants, Workload(row.tokens, row.load), EFFORT, temperature)

    def _entrant(self, catalogue: BundleCatalogue, row: Evidence) -> Entrant:
        selection = catalogue.select(row.tokens, row.load, None)
        return _entrant(catalogue.binary(selection), selection.pack, selection.config)


def _entrant(path: Path, pack: str, config: Mapping[str, int]) -> Entrant:
    return Entrant(path, pack, workers=config.get("workers", 0))


if __name__ == "__main__":
    sys.exit(main())
