from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernels import TINY, kernel
from tuner.codegen.compile import compile_source
from tuner.errors import KernelError
from tuner.measure.bench import Entrant
from tuner.measure.race import Effort
from tuner.measure.worker import Worker, WorkerCrash, WorkerTimeout
from tuner.problem.workload import Workload
from tuner.target import detect

pytestmark = pytest.mark.compiler

# A kernel that says it is ours and then crashes, or never comes back.
ROGUE = """
comptime I64 = Pointer[Int64, MutUntrackedOrigin]

@export
def moe_info(info: I64) abi("C"):
    info[unsafe_offset=0] = 1
    info[unsafe_offset=1] = 48
    info[unsafe_offset=2] = 40
    info[unsafe_offset=3] = 4
    info[unsafe_offset=4] = 2
    info[unsafe_offset=5] = 1
    info[unsafe_offset=6] = 64
    info[unsafe_offset=7] = 4096

@export
def moe_pack(a: I64, b: Int64, c: I64, d: I64, e: I64, f: Int64, g: Int64, h: I64, i: I64, j: I64) abi("C"):
    pass

@export
def moe_scratch_bytes(tokens: Int64) abi("C") -> Int64:
    return 64

@export
def moe_call(control: I64, arguments: I64) abi("C"):
    BODY

@export
def moe_worker(control: I64, worker: Int64) abi("C"):
    pass

@export
def moe_stop(control: I64) abi("C"):
    pass
"""
CRASHES = "I64(unsafe_from_address=8)[unsafe_offset=0] = 1"
HANGS = "while control[unsafe_offset=0] == 0:\n        control[unsafe_offset=1] += 1"


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker(TINY, detect(), seed=1) as started:
        yield started


def rogue(body: str) -> Entrant:
    return Entrant(compile_source(ROGUE.replace("BODY", body), detect()).path, "rogue", 4)


def good() -> Entrant:
    return Entrant(kernel(TINY).path, "v", 4)


def test_a_crash_is_told_and_the_next_request_works(worker: Worker) -> None:
    with pytest.raises(
        WorkerCrash, match=r"verify: the kernel's process was ended by SIG(SEGV|BUS)"
    ):
        worker.verify(rogue(CRASHES), 4, timeout_s=60)
    assert worker.verify(good(), 4, timeout_s=60).ok


def test_a_hang_is_killed_and_the_next_request_works(worker: Worker) -> None:
    with pytest.raises(WorkerTimeout, match="no answer within 8 s; process killed"):
        worker.verify(rogue(HANGS), 4, timeout_s=8)
    assert worker.verify(good(), 4, timeout_s=60).ok


def test_a_kernel_that_does_nothing_is_wrong(worker: Worker) -> None:
    verdict = worker.verify(rogue("pass"), 4, timeout_s=60)
    assert not verdict.ok
    assert verdict.message.startswith("T=1 router: token 0: routed to [-1, -1]")


@pytest.mark.parametrize("content", [b"", bytes(range(256)) * 16])
def test_errors_of_ours_come_back_as_they_are(
    content: bytes, worker: Worker, tmp_path: Path
) -> None:
    """A library that is cut, or garbage."""
    (tmp_path / "kernel.so").write_bytes(content)
    with pytest.raises(KernelError, match="does not load"):
        worker.verify(Entrant(tmp_path / "kernel.so", "v"), 4, timeout_s=60)


def test_decode_is_timed_cold_and_prefill_warm(worker: Worker) -> None:
    effort = Effort(budget_s=0.1, least_rounds=3)
    cold = worker.race([good()], Workload(1), effort, timeout_s=60)
    warm = worker.race([good(), good()], Workload(64), effort, timeout_s=60)
    assert cold.temperature == "cold"
    assert cold.race.read_gb_s > 0.5
    assert warm.temperature == "warm"
    assert warm.race.probe_gb_s == ()
    # Every one of 64 tokens goes through two of the experts, and the router.
    assert warm.flops == 64 * (2 * 6 * 48 * 40 + 2 * 48 * 4)
    assert 0.3 < warm.race.ratio(1).value < 3.0
