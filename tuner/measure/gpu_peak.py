"""The arithmetic ceiling of a GPU: a dense product through the template's own product 1.

The layer has one expert that every token goes to and no gate: its product 1 is one matrix product, large enough
that nothing but the tensor cores (and the power they may take) limits it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import KernelError
from tuner.gpu import pack, ptx
from tuner.gpu.driver import Device
from tuner.gpu.kernel import Call, GpuKernel, upload
from tuner.gpu.ptx import Program
from tuner.measure.gpu_bench import GpuBench
from tuner.measure.gpu_probe import GpuProbe
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES

# On 132 multiprocessors all blocks have eight whole tiles of 256 x 144 each, alone or in pairs.
TOKENS = 66 * 144
_KERNEL = "moe_product_1"
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


def gflop_s(device: Device, program: Program, dtype: str, probe: GpuProbe) -> float:
    """Rate of product 1 of a program for `layer`: the median of some calls.

    Raises KernelError where the program is another one, or its result is not finite.
    """
    problem = layer(dtype)
    ptx.check(problem, program, problem.name)
    kernel = GpuKernel(device, program)
    if _KERNEL not in kernel.functions:
        raise KernelError(f"{problem.name}: its program has no {_KERNEL}; make the job again")
    weights = upload(device, _weights(problem))
    bench = GpuBench(device, problem, weights, probe)
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
    names, stream = list(kernel.functions), bench.stream
    product = names.index(_KERNEL)
    for number in range(product):
        call.run_one(number, stream)
    rounds = range(_WARM_UPS + _ROUNDS)
    times = [bench.timed(lambda: call.run_one(product, stream)) for _ in rounds]
    for number in range(product + 1, len(names)):
        call.run_one(number, stream)
    bench.device.wait(stream)
    return float(np.median(times[_WARM_UPS:]))


def _weights(problem: Problem) -> Mapping[str, NDArray[Any]]:
    """Random packed weights: which place a number has in the matrix does not matter here."""
    rng, dtype = np.random.default_rng(0), NUMPY_DTYPES[problem.weight_dtype]
    scale = np.float32(problem.hidden**-0.5)
    made: dict[str, NDArray[Any]] = {
        name: (rng.standard_normal(shape, dtype=np.float32) * scale).astype(dtype)
        for name, shape in pack.packed_shapes(problem).items()
    }
    made["router"] = np.zeros((pack.router_rows(problem), problem.hidden), dtype)
    for name in ("router_bias", "correction", "gate_bias", "up_bias", "down_bias"):
        made[name] = np.zeros(1, np.float32)
    return made


def _inputs(problem: Problem) -> Mapping[str, NDArray[Any]]:
    """Random tokens, all of them given to the one expert."""
    x = np.random.default_rng(1).standard_normal((TOKENS, problem.hidden), dtype=np.float32)
    return {
        "x": x.astype(NUMPY_DTYPES[problem.dtype]),
        "indices": np.zeros((TOKENS, 1), np.int32),
        "weights": np.ones((TOKENS, 1), np.float32),
    }
