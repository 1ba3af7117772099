"""A bundle's layer on the cores of another machine than it was built on: threads and times.

    moetune bundle build granite-3.0-1b-a400m --target sapphirerapids -o granite.moe     # on two cores, say
    python benchmarks/pool_cores.py granite.moe                                          # on the other machine
    taskset -c 0,1 python benchmarks/pool_cores.py granite.moe                           # on two of its cores

It needs Python and NumPy. Weights are warm; a time is the median of 40 calls.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

import numpy as np

import tuner
from tuner.bundle.reader import read_bundle
from tuner.host.cores import pool_size

TOKENS = (1, 128, 1024)
WARM_UPS, CALLS = 5, 40


def median_us(layer: tuner.Layer, tokens: int) -> float:
    """Microseconds of a call on so many random tokens."""
    x = np.random.default_rng(1).standard_normal((tokens, layer.problem.hidden), dtype=np.float32)
    times = []
    for _ in range(WARM_UPS + CALLS):
        start = time.perf_counter_ns()
        layer(x)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times[WARM_UPS:]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    path = parser.parse_args().bundle
    (section, *_) = read_bundle(path, "unsigned").manifest.sections
    weights = tuner.Weights.random(section.problem, seed=0)
    layer = tuner.load(path, weights, trust="unsigned", problem=section.problem)
    print(
        f"{section.problem.describe()}; this process may use {len(os.sched_getaffinity(0))} cores"
    )
    for tokens in TOKENS:
        selection = layer.selection(tokens)
        threads = pool_size(selection.config.get("workers", 0), selection.target.cores)
        print(
            f"T={tokens}: {median_us(layer, tokens):,.0f} us, {threads} threads, {selection.arch}"
        )


if __name__ == "__main__":
    main()
