"""One variant of a job, in a process of its own: load, verify, race against the default.

Prints a JSON line for each token count as it ends, so that a crash or a time limit loses only what was not
printed. `python -m tuner.job_trial FOLDER DATA trial VARIANT TOKENS[,TOKENS]`, or `final TOKENS
VARIANT[,VARIANT]`, or `device`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner import job as jobs
from tuner import job_data, ptx, verify
from tuner.cuda import Device
from tuner.errors import KernelError
from tuner.gpu_bench import GpuBench
from tuner.gpu_layer import GpuKernel, upload
from tuner.workload import Workload

_WARM_UPS = 3
_TRIAL_ROUNDS = 15
_FINAL_ROUNDS = 60


class Bench(GpuBench):
    """A device with a job's weights in its memory."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.job = folder, jobs.read(folder)
        problem, device = self.job.layer, Device()
        super().__init__(device, problem, upload(device, job_data.weights_of(data, problem)))
        self._kernels: dict[str, GpuKernel] = {}

    def kernel(self, name: str) -> GpuKernel:
        """A variant, loaded once."""
        if name not in self._kernels:
            text = (self.folder / self.job.variant(name).file).read_text()
            self._kernels[name] = GpuKernel(self.device, ptx.parse(text))
        return self._kernels[name]

    def race(self, names: Sequence[str], tokens: int, rounds: int) -> list[list[float]]:
        """Times (ns) of variants that run in turn, the L2 cache flushed before each: [variant][round]."""
        workload = Workload(tokens, self.job.load)
        works, arenas = zip(
            *(self.ready(self.kernel(name), workload, self.job.seed) for name in names), strict=True
        )
        times: list[list[float]] = [[] for _ in names]
        for number in range(rounds + _WARM_UPS):
            for place in range(len(names)):
                which = (place + number) % len(names)
                taken = self.timed(works[which])
                if number >= _WARM_UPS:
                    times[which].append(taken)
        for arena in arenas:
            arena.free()
        return times


def say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, sort_keys=True), flush=True)


def trial(bench: Bench, data: Path, name: str, counts: Sequence[int]) -> None:
    """A variant on its token counts: verified on each, then raced against that count's default."""
    answers = job_data.answers_of(data)
    kernel = bench.kernel(name)
    for tokens in counts:
        start = time.perf_counter()
        cases = verify.cases(bench.problem, tokens, kernel.facts["tile_n"], bench.job.seed)
        wrong = next(((c, m) for c in cases if (m := bench.check(kernel, answers[c])[0])), None)
        verify_ms = 1e3 * (time.perf_counter() - start)
        line = {"kind": "trial", "variant": name, "tokens": tokens, "verify_ms": verify_ms}
        if wrong:
            case, message = wrong
            say({**line, "status": "wrong", "message": f"T={case.tokens} {case.load}: {message}"})
            continue
        default = bench.job.default(tokens)
        start = time.perf_counter()
        times = bench.race([default, name] if default != name else [name], tokens, _TRIAL_ROUNDS)
        spent = 1e3 * (time.perf_counter() - start)
        say(
            {
                **line,
                "status": "ok",
                "samples": times[-1],
                "default_samples": times[0],
                "benchmark_ms": spent,
            }
        )


def device(bench: Bench) -> None:
    """What the device is, and its copy bandwidth now."""
    card = bench.device
    say(
        {
            "kind": "device",
            "name": card.name,
            "multiprocessors": card.multiprocessors,
            "l2_bytes": card.l2_bytes,
            "memory_bytes": card.memory_bytes,
            "driver": card.driver_version,
            "copy_gb_s": bench.copy_gb_s(),
        }
    )


def main(arguments: Sequence[str]) -> int:
    folder, data, what, *rest = arguments
    try:
        bench = Bench(Path(folder), Path(data))
        if what == "device":
            device(bench)
        elif what == "trial":
            trial(bench, Path(data), rest[0], [int(t) for t in rest[1].split(",")])
        else:
            names = rest[1].split(",")
            times = bench.race(names, int(rest[0]), _FINAL_ROUNDS)
            say({"kind": "final", "tokens": int(rest[0]), "variants": names, "samples": times})
    except KernelError as error:
        say({"kind": "error", "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
