"""One variant of a job, in a process of its own: load, verify, race against the default.

Prints a JSON line for each token count as it ends, so that a crash or a time limit loses only what was not
printed. `python -m tuner.offline.trial FOLDER DATA trial VARIANT TOKENS[,TOKENS]`, or `final TOKENS
VARIANT[,VARIANT]`, or `device`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import KernelError
from tuner.measure.bench import Entrant, Timing
from tuner.measure.race import FINAL_EFFORT, SLOW, TRIAL_EFFORT, Effort
from tuner.measure.worker import end_with_parent
from tuner.offline import job as jobs
from tuner.offline.bench import kind_of
from tuner.problem.workload import Workload


def say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, sort_keys=True), flush=True)


class JobBench:
    """A job's bench, by the names of its variants."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.data, self.job = folder, data, jobs.read(folder)
        self.kind = kind_of(self.job)
        self.bench = self.kind.open_bench(folder, data)

    def entrant(self, name: str) -> Entrant:
        """A variant of the job."""
        variant = self.job.variant(name)
        return Entrant(self.folder / variant.file, variant.pack, variant.ragged)

    def twin(self, of: Entrant) -> Entrant:
        """The sentinel: a copy of a variant's program, which loads as one of its own."""
        path = self.data / f"twin-{of.path.name}"
        shutil.copyfile(of.path, path)
        return dataclasses.replace(of, path=path)

    def race(self, entrants: Sequence[Entrant], tokens: int, effort: Effort) -> Timing:
        """Times them in turn on the job's load."""
        workload = Workload(tokens, self.job.load)
        return self.bench.race(entrants, workload, effort, self.job.temperature)


def told(timing: Timing) -> dict[str, Any]:
    """What a race tells beside its samples, as its line has it."""
    race = timing.race
    return {
        "flops": timing.flops,
        "read_bytes": timing.read_bytes,
        "temperature": timing.temperature,
        "probe_gb_s": race.probe_gb_s,
        "probe_gflop_s": race.probe_gflop_s,
        "foreign": race.foreign,
        "redone": race.redone,
    }


def trial(bench: JobBench, name: str, counts: Sequence[int]) -> None:
    """A variant on its token counts: verified on each, then raced against that count's default."""
    job = bench.job
    effort = dataclasses.replace(TRIAL_EFFORT, budget_s=job.trial_race_s, reach=SLOW)
    for tokens in counts:
        start = time.perf_counter()
        verdict = bench.bench.verify(bench.entrant(name), tokens)
        verify_ms = 1e3 * (time.perf_counter() - start)
        line = {"kind": "trial", "variant": name, "tokens": tokens, "verify_ms": verify_ms}
        if not verdict.ok:
            say({**line, "status": "wrong", "message": verdict.message})
            continue
        start = time.perf_counter()
        names = dict.fromkeys((job.default(tokens), name))
        timing = bench.race([bench.entrant(n) for n in names], tokens, effort)
        spent = 1e3 * (time.perf_counter() - start)
        times = timing.race.times_ns
        line |= {"samples": times[-1], "default_samples": times[0], "timing": told(timing)}
        say({**line, "status": "ok", "benchmark_ms": spent})


def final(bench: JobBench, tokens: int, names: Sequence[str]) -> None:
    """Finalists in one race, and beside them a copy of the default, which tells the noise."""
    effort = dataclasses.replace(FINAL_EFFORT, budget_s=bench.job.final_race_s)
    entrants = [bench.entrant(name) for name in names]
    timing = bench.race([*entrants, bench.twin(entrants[0])], tokens, effort)
    *samples, twin = timing.race.times_ns
    line = {"kind": "final", "tokens": tokens, "variants": names, "samples": samples}
    say({**line, "twin": twin, "timing": told(timing)})


def main(arguments: Sequence[str]) -> int:
    folder, data, what, *rest = arguments
    end_with_parent()
    try:
        bench = JobBench(Path(folder), Path(data))
        if what == "device":
            say({"kind": "device", **bench.kind.device(bench.bench)})
        elif what == "trial":
            trial(bench, rest[0], [int(t) for t in rest[1].split(",")])
        else:
            final(bench, int(rest[0]), rest[1].split(","))
    except KernelError as error:
        say({"kind": "error", "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
