"""What a call of a layer costs beyond its kernel, and what loading it costs.

    python benchmarks/call_overhead.py [PRESET] [--tokens 1] [--calls 2000]

The kernel alone is the library's function with arguments that never change. It and one form of call take
turns in random order; the differences are paired. Layers whose weights don't fit the caches pay more,
because the interpreter's own memory is cold after each call. One call in 16 makes answers ahead: that is in
the 97th percentile, as is what else the machine did; compare it with that of the kernel again.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable

import numpy as np

import tuner
from tuner.cpu.buffers import allocate
from tuner.cpu.worker_pool import ready_argument
from tuner.intervals import Median, median
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.runtime.engine import kernel_of
from tuner.runtime.from_database import Tuned
from tuner.runtime.packing import pack

Call = Callable[[], object]


def bare_call(layer: tuner.Layer, weights: tuner.Weights, x: np.ndarray) -> Call:
    """The kernel's own function on fixed arguments, with the layer's threads: those of another kernel
    would still spin on the cores."""
    selection = layer.selection(len(x))
    kernel = kernel_of(Tuned(layer.problem), selection)
    bound = kernel.bind(pack(kernel, selection.pack, weights)[0])
    shape = (len(x), layer.problem.top_k)
    arrays = x, np.empty_like(x), allocate(kernel.scratch_bytes(len(x)) // 4 + 1)
    arrays += np.empty(shape, np.int32), np.empty(shape, np.float32)
    addresses = [array.ctypes.data for array in arrays]
    bound.run(len(x), *addresses)  # starts the threads
    function, control, block = bound.fix(len(x), *addresses)
    words = ready_argument(control), ready_argument(ctypes.addressof(block))

    def call(_: object = (kernel, bound, arrays, block)) -> None:
        function(*words)

    return call


def paired(calls: list[Call], rounds: int, seed: int = 0) -> np.ndarray:
    """Times of each call in us, [rounds, calls]: all of them once a round, in random order."""
    rng = np.random.default_rng(seed)
    times = np.zeros((rounds, len(calls)))
    for row in times:
        for index in rng.permutation(len(calls)):
            start = time.perf_counter_ns()
            calls[index]()
            row[index] = (time.perf_counter_ns() - start) / 1e3
    return times


def overheads(calls: list[Call], rounds: int) -> tuple[list[Median], Median]:
    """Paired differences of each call to the first one, and the first one's own times, in us."""
    times = paired(calls, rounds)
    differences = [median(list(column - times[:, 0])) for column in times.T[1:]]
    return differences, median(list(times[:, 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", nargs="?", default="granite-3.0-1b-a400m")
    parser.add_argument("--tokens", type=int, default=1)
    parser.add_argument("--calls", type=int, default=2000)
    arguments = parser.parse_args()
    problem = tuner.Problem.preset(arguments.preset)
    weights = tuner.Weights.random(problem, 0)
    shape = (arguments.tokens, problem.hidden)
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    x = x.astype(NUMPY_DTYPES[problem.dtype])
    start = time.perf_counter()
    layer = tuner.load(problem, weights)
    layer(x)
    first_ms = 1e3 * (time.perf_counter() - start)
    stats = layer.stats()
    print(
        f"load and first call {first_ms:.0f} ms: packing {stats.pack_ms:.0f}, load {stats.load_ms:.0f}"
    )
    y = np.empty_like(x)
    bare = bare_call(layer, weights, x)
    forms: dict[str, Call] = {
        "kernel again": bare,
        "layer(x)": lambda: layer(x),
        "layer(x, out=y)": lambda: layer(x, out=y),
        "layer(x, return_routing=True)": lambda: layer(x, return_routing=True),
    }
    print("us: the kernel alone; beyond it the median and its interval, and the 97th percentile")
    for name, form in forms.items():
        times = paired([bare, form], arguments.calls)
        extra = times[:, 1] - times[:, 0]
        alone, beyond = np.median(times[:, 0]), median(list(extra))
        interval = f"({beyond.low:+.1f} to {beyond.high:+.1f})"
        print(
            f"{name:30} {alone:6.1f} {beyond.value:+6.1f} {interval} {np.percentile(extra, 97):+6.1f}"
        )


if __name__ == "__main__":
    main()
