"""One variant of a job, in a process of its own: load, verify, race against the default.

Prints a JSON line for each token count as it ends, so that a crash or a time limit loses only what was not
printed. `python -m tuner.offline.trial FOLDER DATA trial VARIANT TOKENS[,TOKENS]`, or `final TOKENS
VARIANT[,VARIANT]`, or `device`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import KernelError
from tuner.measure.worker import end_with_parent
from tuner.offline import bench as job_bench
from tuner.offline import job as jobs
from tuner.offline.bench import Bench
from tuner.offline.job import Job


def say(line: Mapping[str, Any]) -> None:
    print(json.dumps(line, sort_keys=True), flush=True)


def trial(bench: Bench, job: Job, name: str, counts: Sequence[int]) -> None:
    """A variant on its token counts: verified on each, then raced against that count's default."""
    for tokens in counts:
        start = time.perf_counter()
        wrong = bench.check(name, tokens)
        verify_ms = 1e3 * (time.perf_counter() - start)
        line = {"kind": "trial", "variant": name, "tokens": tokens, "verify_ms": verify_ms}
        if wrong:
            say({**line, "status": "wrong", "message": wrong})
            continue
        default = job.default(tokens)
        start = time.perf_counter()
        raced = dict(bench.race(list(dict.fromkeys((default, name))), tokens, final=False))
        spent = 1e3 * (time.perf_counter() - start)
        samples = raced.pop("samples")
        line |= {"samples": samples[-1], "default_samples": samples[0], **raced}
        say({**line, "status": "ok", "benchmark_ms": spent})


def main(arguments: Sequence[str]) -> int:
    folder, data, what, *rest = arguments
    end_with_parent()
    try:
        job = jobs.read(Path(folder))
        bench = job_bench.kind_of(job).open_bench(Path(folder), Path(data))
        if what == "device":
            say({"kind": "device", **bench.device()})
        elif what == "trial":
            trial(bench, job, rest[0], [int(t) for t in rest[1].split(",")])
        else:
            tokens, names = int(rest[0]), rest[1].split(",")
            raced = bench.race(names, tokens, final=True)
            say({"kind": "final", "tokens": tokens, "variants": names, **raced})
    except KernelError as error:
        say({"kind": "error", "message": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
