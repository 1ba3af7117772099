"""The measuring process: a child that verifies and times kernels, started again when it dies.

A kernel that crashes or hangs takes the child with it and nothing else. Requests and answers are
pickled tuples on a socket: the name of a method of the child's bench and its arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol

from tuner.errors import MoetuneError, WorkerError
from tuner.host import watchdog
from tuner.measure.bench import Bench, Entrant, Timing
from tuner.measure.race import Effort
from tuner.measure.verify import Verdict
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.target import Target
from tuner.target.roofline import Limits

BENCH_STATE = "tuner.measure.own_bench:open_bench"
# OpenBLAS threads spin for 2^28 cycles after a call, which is in the way of what is timed next;
# 2^24 cycles are some milliseconds.
THREADS = {"OMP_NUM_THREADS": str(os.cpu_count() or 1), "OPENBLAS_THREAD_TIMEOUT": "24"}


VERIFY_S = 300.0
CEILINGS_S = 120.0


def race_limit_s(effort: Effort) -> float:
    """After so long a race is thought to hang: weights are packed in it, and it may be run again."""
    return 120.0 * max(1.0, effort.budget_s)


class WorkerCrash(WorkerError):
    """The measuring process ended while it worked on a request."""


class WorkerTimeout(WorkerError):
    """The measuring process did not answer in time and was killed."""


class BenchProcess(Bench, Protocol):
    """A bench in a process that can be ended; the next request starts another. Worker is one."""

    def stop(self) -> None:
        """Ends the process, if there is one."""


class Worker:
    """Asks a child process, one request at a time; use it as a context manager."""

    def __init__(
        self,
        problem: Problem,
        target: Target,
        seed: int,
        state: str = BENCH_STATE,
        cores: frozenset[int] | None = None,
    ) -> None:
        """`state` makes the child's state, as MODULE:FUNCTION; it stays on `cores`."""
        self._state = (state, problem, target, seed)
        self._cores = cores
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def ceilings(self) -> Limits:
        """As ``Bench.ceilings``; raises what `ask` raises, as all of these."""
        limits: Limits = self.ask("ceilings", timeout_s=CEILINGS_S)
        return limits

    def verify(self, entrant: Entrant, tokens: int, *, timeout_s: float | None = None) -> Verdict:
        """As ``Bench.verify``."""
        verdict: Verdict = self.ask("verify", entrant, tokens, timeout_s=timeout_s or VERIFY_S)
        return verdict

    def race(
        self,
        entrants: Sequence[Entrant],
        workload: Workload,
        effort: Effort,
        temperature: str = "auto",
        *,
        timeout_s: float | None = None,
    ) -> Timing:
        """As ``Bench.race``."""
        limit_s = timeout_s or race_limit_s(effort)
        arguments = list(entrants), workload, effort, temperature
        timing: Timing = self.ask("race", *arguments, timeout_s=limit_s)
        return timing

    def ask(self, method: str, *arguments: Any, timeout_s: float) -> Any:
        """The answer of the child's METHOD(*arguments).

        Raises WorkerCrash or WorkerTimeout (the next request starts a new process), or the
        MoetuneError that the method raised.
        """
        connection = self._start()
        try:
            connection.send((method, arguments))
            if not connection.poll(timeout_s):
                self.stop()
                raise WorkerTimeout(f"{method}: no answer within {timeout_s:g} s; process killed")
            answer = connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerCrash(f"{method}: {self._end()}") from error
        if isinstance(answer, MoetuneError):
            raise answer
        return answer

    def _start(self) -> Connection:
        if self._connection is not None and self._child is not None and self._child.poll() is None:
            return self._connection
        self.stop()
        watchdog.ready()
        mine, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tuner.measure.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a crash is told by its signal
                start_new_session=True,
                env=os.environ | THREADS,
            )
        watchdog.watch(self._child.pid)
        if self._cores:
            os.sched_setaffinity(self._child.pid, self._cores)  # before it starts a thread
        self._connection = Connection(mine.detach())
        self._connection.send(self._state)
        return self._connection

    def _end(self) -> str:
        """Why the child ended, in words."""
        code = self._child.wait(timeout=10.0) if self._child else 0
        self.stop()
        if code < 0:
            return f"the kernel's process was ended by {signal.Signals(-code).name}"
        return f"the kernel's process ended with status {code}"

    def stop(self) -> None:
        """Kills the child, if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            watchdog.forget(self._child.pid)
            self._child = None


def serve(connection: Connection) -> None:
    """Answers requests until the other side goes away."""
    name, *arguments = connection.recv()
    module, _, cls = name.partition(":")
    state = getattr(importlib.import_module(module), cls)(*arguments)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = getattr(state, method)(*arguments)
        except MoetuneError as error:
            answer = error
        connection.send(answer)


def main() -> None:
    """Entry of the child: its only argument is the socket's number."""
    end_with_parent()
    serve(Connection(int(sys.argv[1])))


def end_with_parent() -> None:
    """From now on this process ends when its parent does, though a kernel may never come back."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    with contextlib.suppress(OSError):  # a container's kernel may know no such descriptors
        select.select([os.pidfd_open(parent)], [], [])
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
