from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import TINY, kernel, tokens
from tuner.codegen.compile import compile_source
from tuner.cpu.buffers import HUGE_PAGE, allocate
from tuner.cpu.kernel import Kernel
from tuner.errors import KernelError
from tuner.measure import reference
from tuner.problem.weights import Weights
from tuner.target import detect

pytestmark = pytest.mark.compiler

NOT_OURS = """
@export
def other() abi("C") -> Int32:
    return 1
"""


def run(layer: Kernel, weights: Weights, count: int) -> np.ndarray:
    problem = layer.problem
    x = tokens(problem, count)
    y = np.full_like(x, np.nan)
    routing = (
        np.zeros((count, problem.top_k), np.int32),
        np.zeros((count, problem.top_k), np.float32),
    )
    scratch = allocate(layer.scratch_bytes(count) // 4)
    layer.run(layer.pack(weights), x, y, *routing, scratch)
    return y


def test_buffers_start_on_a_huge_page_and_are_zero() -> None:
    buffer = allocate(1000)
    assert buffer.shape == (1000,)
    assert buffer.ctypes.data % HUGE_PAGE == 0
    assert not buffer.any()


def test_one_worker_and_many_give_the_same_bits() -> None:
    weights = Weights.random(TINY, 3).check(TINY)
    one, all_cores = kernel(TINY, workers=1), kernel(TINY)
    assert one.workers == 1
    assert all_cores.workers == detect().cores
    assert np.array_equal(run(one, weights, 57), run(all_cores, weights, 57))


def test_two_threads_may_run_one_kernel() -> None:
    weights = Weights.random(TINY, 3).check(TINY)
    layer = kernel(TINY)
    expected = reference.moe(TINY, weights, tokens(TINY, 33))
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(50):
            if not np.allclose(run(layer, weights, 33), expected, atol=1e-4):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_library_of_somebody_else_is_refused() -> None:
    path = compile_source(NOT_OURS, detect()).path
    with pytest.raises(KernelError, match="exports no moe_info; it is not a moetune kernel"):
        Kernel(path, TINY)


def test_a_kernel_of_another_problem_is_refused() -> None:
    path = kernel(TINY).path
    with pytest.raises(KernelError, match="clear the cache folder and compile again"):
        Kernel(path, TINY.replace(hidden=64))


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kernel.so"
    path.write_bytes(b"nothing")
    with pytest.raises(KernelError, match=r"kernel\.so: does not load"):
        Kernel(path, TINY)


def test_a_kernel_that_is_dropped_takes_its_threads_along() -> None:
    path = kernel(TINY).path
    weights = Weights.random(TINY, 3).check(TINY)
    before = threading.active_count()
    for _ in range(20):
        run(Kernel(path, TINY), weights, 9)
    assert threading.active_count() == before
