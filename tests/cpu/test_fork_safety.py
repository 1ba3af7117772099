"""A process that forks keeps its layers: the child's run with worker threads of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, tokens
from tuner.cpu import fork_safety
from tuner.problem import trace_file
from tuner.problem.weights import Weights
from tuner.runtime import trace

pytestmark = [
    pytest.mark.compiler,
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),  # what is tested here
]

XS = [tokens(TINY, count) for count in (1, 1, 7, 40, 60)]
HANGS_S = 20


@pytest.fixture(scope="module")
def layer() -> tuner.Layer:
    return tuner.load(TINY, Weights.random(TINY, 2))


def forked(work: Callable[[], bool]) -> int:
    """The exit code of a child that does `work`: 0 when it is True, negative when it hangs."""
    child = os.fork()
    if not child:
        signal.alarm(HANGS_S)
        code = 1
        try:
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def workers() -> int:
    return sum(thread.name.startswith("moetune-") for thread in threading.enumerate())


def test_a_child_starts_worker_threads_of_its_own(layer: tuner.Layer) -> None:
    right = [layer(x) for x in XS]
    before = workers()
    assert before > 0 or os.cpu_count() == 1

    def work() -> bool:
        none = workers() == 0
        same = all(np.array_equal(layer(x), y) for x, y in zip(XS, right, strict=True))
        return none and same and (workers() > 0 or before == 0)

    assert [forked(work) for _ in range(3)] == [0, 0, 0]
    for x, y in zip(XS, right, strict=True):
        np.testing.assert_array_equal(layer(x), y)


def test_a_child_of_a_child(layer: tuner.Layer) -> None:
    right = layer(XS[3])

    def work() -> bool:
        return np.array_equal(layer(XS[3]), right)

    assert forked(lambda: work() and forked(work) == 0 and work()) == 0


def test_a_fork_while_another_thread_calls(layer: tuner.Layer) -> None:
    right = layer(XS[4])
    stop = threading.Event()

    def call() -> None:
        while not stop.is_set():
            layer(XS[4])

    thread = threading.Thread(target=call)
    thread.start()
    codes = [forked(lambda: np.array_equal(layer(XS[4]), right)) for _ in range(10)]
    stop.set()
    thread.join()
    assert codes == [0] * 10


def test_a_process_of_multiprocessing(layer: tuner.Layer) -> None:
    right = layer(XS[2])
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(layer(XS[2])))
    child.start()
    assert mine.poll(HANGS_S)
    np.testing.assert_array_equal(mine.recv(), right)
    child.join()
    assert child.exitcode == 0


def test_a_child_leaves_its_parents_trace_alone(layer: tuner.Layer, tmp_path: Path) -> None:
    def work() -> bool:
        layer(XS[0])
        return trace.recorders == ()

    with tuner.trace(tmp_path / "trace.jsonl"):
        layer(XS[1])
        assert forked(work) == 0
    assert [row.calls for row in trace_file.read(tmp_path / "trace.jsonl").rows] == [1]


def test_a_wait_that_a_signal_ends_frees_nothing_of_the_holders_and_the_child_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lock, taken, done = threading.RLock(), threading.Event(), threading.Event()
    fork_safety.hold(lock)

    def holder() -> None:
        with lock:
            taken.set()
            done.wait(30)

    def raising(*_: object) -> None:
        raise TimeoutError

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    thread = threading.Thread(target=holder)
    thread.start()
    taken.wait(30)
    former = signal.signal(signal.SIGALRM, raising)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        child = os.fork()
        if child == 0:
            os._exit(0 if lock.acquire(blocking=False) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not lock.acquire(blocking=False)
    finally:
        signal.signal(signal.SIGALRM, former)
        done.set()
        thread.join()
    assert len(told) == 1
