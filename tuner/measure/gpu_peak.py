"""The arithmetic ceiling of a GPU: a dense product through the kernel that a program calls its dense one.

The layer has one expert that every token goes to and no gate: its product 1 is one matrix product, large enough
that nothing but the tensor cores (and the power they may take) limits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import KernelError
from tuner.gpu.driver import Device
from tuner.gpu.kernel import Call, GpuKernel, upload
from tuner.gpu.program import layer_program
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights

# On 132 multiprocessors all blocks have eight whole tiles of 256 x 144 each, alone or in pairs.
TOKENS = 66 * 144
_ROUNDS = 20
_WARM_UPS = 3


def layer(dtype: str) -> Problem:
    """The problem whose product 1 is [TOKENS, 4096] x [4096, 4096]."""
    return Problem(
        hidden=4096,
        expert_dim=4096,
        num_experts=1,
        top_k=1,
        dtype=dtype,
        activation="relu",
        name="dense",
    )


def gflop_s(device: Device, text: str, dtype: str, probe: GpuProbe) -> float:
    """Rate of product 1 of a program for `layer`, in 10^9 operations a second: the median of some calls.

    Raises KernelError where the program is another one, or its result is not finite.
    """
    problem = layer(dtype)
    program = layer_program(problem, text, problem.name)
    if not program.dense:
        raise KernelError(f"{problem.name}: its program names no dense kernel; make the job again")
    kernel = GpuKernel(device, program)
    weights = upload(device, program.packing.pack(Weights.random(problem, seed=0)))
    bench = GpuBench(device, problem, lambda packing: weights, probe)
    arena = bench.arena(kernel, TOKENS)
    for name, array in _inputs(problem).items():
        device.upload(array, arena[name])
    median_ns = _median_ns(bench, bench.call(kernel, arena, TOKENS, routed=True), kernel)
    y = np.empty((TOKENS, problem.hidden), NUMPY_DTYPES[dtype])
    device.download(arena["y"], y)
    arena.free()
    for address in weights.values():
        device.free(address)
    # All that product 1 made has gone into y, and both began as NaN.
    if not np.isfinite(y.astype(np.float32)).all():
        raise KernelError(f"{problem.name}: what its product made is not finite: no ceiling")
    return 2 * TOKENS * problem.hidden * problem.expert_dim / median_ns


def _median_ns(bench: GpuBench, call: Call, kernel: GpuKernel) -> float:
    """Runs a call once, but product 1 some times, timed."""
    names, stream = [grid.kernel for grid in kernel.program.launches], bench.stream
    product = names.index(kernel.program.dense)
    for number in range(product):
        call.run_one(number, stream)
    rounds = range(_WARM_UPS + _ROUNDS)
    times = [bench.timed(lambda: call.run_one(product, stream)) for _ in rounds]
    for number in range(product + 1, len(names)):
        call.run_one(number, stream)
    bench.device.wait(stream)
    return float(np.median(times[_WARM_UPS:]))


def _inputs(problem: Problem) -> Mapping[str, NDArray[Any]]:
    """Random tokens, all of them given to the one expert."""
    x = np.random.default_rng(1).standard_normal((TOKENS, problem.hidden), dtype=np.float32)
    return {
        "x": x.astype(NUMPY_DTYPES[problem.dtype]),
        "indices": np.zeros((TOKENS, 1), np.int32),
        "weights": np.ones((TOKENS, 1), np.float32),
    }
