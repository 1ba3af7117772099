"""The host side of a kernel's worker pool (templates/shared/pool.mojo.j2).

Worker threads are Python threads that live inside the library's wait function, where they hold
no lock of the interpreter. They spin for a fraction of a millisecond after a call and then sleep.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.cpu import fork_safety
from tuner.cpu.buffers import allocate
from tuner.errors import KernelError
from tuner.host.paths import no_programs

ARGUMENT_WORDS = 16
Signatures = dict[str, tuple[list[type], type | None]]

# One parallel region at a time in a process: two at once would share the same cores. Whoever holds
# it may use the scratch memory of the process.
REGION = threading.RLock()

_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _start_anew() -> None:
    """In the child of a fork: threads are not forked."""
    for pool in _pools:
        pool.reset()


fork_safety.hold(REGION, _start_anew)


def load_library(path: Path, signatures: Signatures) -> ctypes.CDLL:
    """Loads a compiled library and types its functions. Raises KernelError when it can't."""
    try:
        library = ctypes.CDLL(str(path.resolve()))
    except OSError as error:
        why = no_programs(path) if path.exists() else None
        told = why or f"{path}: does not load: {error}; clear the cache folder"
        raise KernelError(told) from error
    for name, (arguments, result) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise KernelError(f"{path}: exports no {name}; it is not a moetune kernel") from error
        function.argtypes = arguments
        function.restype = result
    return library


def pool_signatures(stem: str) -> Signatures:
    """The functions of a library whose pool exports start with `stem`."""
    pointer = ctypes.c_void_p
    return {
        f"{stem}_info": ([pointer], None),
        f"{stem}_call": ([pointer, pointer], None),
        f"{stem}_worker": ([pointer, ctypes.c_int64], None),
        f"{stem}_stop": ([pointer], None),
    }


def ready_argument(address: int) -> Any:
    """An address as ctypes hands it to a function: made at a call, it would cost some 2 us with cold caches."""
    return ctypes.c_void_p.from_param(address)


class Pool:
    """One library's control block and worker threads, shared by all that call the library."""

    def __init__(self, library: ctypes.CDLL, stem: str, workers: int, control_bytes: int) -> None:
        self._call = getattr(library, f"{stem}_call")
        self._direct = library[f"{stem}_call"]  # without argument types: a function of its own
        self._direct.restype = None
        self._worker = getattr(library, f"{stem}_worker")
        self._stop = getattr(library, f"{stem}_stop")
        self.workers = workers  # threads of one call, the caller among them
        self._control = allocate(control_bytes // 8, np.int64)
        self._arguments = allocate(ARGUMENT_WORDS, np.int64)
        self._addresses = (self._control.ctypes.data, self._arguments.ctypes.data)
        self._threads: list[threading.Thread] = []
        self._started = False
        self._starting = threading.Lock()
        with REGION:
            _pools.add(self)
        # Threads read the control block until they are sent home, so whoever drops the pool must
        # wait for them before the block goes.
        self._finalizer = weakref.finalize(
            self, _send_home, self._stop, self._control, self._threads
        )

    def run(self, arguments: Sequence[int]) -> None:
        """One call: at most ARGUMENT_WORDS numbers and addresses. Safe from several threads."""
        with REGION:
            self._arguments[: len(arguments)] = arguments
            self.call(self._addresses[1])

    def call(self, arguments: int) -> None:
        """One call with the ARGUMENT_WORDS words at an address; the caller holds REGION."""
        if not self._started:
            # In a thread of its own: a signal's exception reaches the main thread alone, and would
            # leave half of the workers, for which calls wait for ever.
            starter = threading.Thread(target=self._start)
            starter.start()
            starter.join()
        self._call(self._addresses[0], arguments)

    @property
    def entry(self) -> tuple[Callable[[Any, Any], None], int]:
        """The library's function, and the address of the control block, for calls without a detour.

        It converts nothing: give it two `ready_argument`s. Only for a pool that has run before.
        """
        return self._direct, self._addresses[0]

    def _start(self) -> None:
        with self._starting:
            if not self._started:
                self._start_workers()
                self._started = True

    def _start_workers(self) -> None:
        for worker in range(1, self.workers):
            thread = threading.Thread(
                target=_work,
                args=(self._worker, self._control, worker),
                name=f"moetune-{worker}",
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)

    def reset(self) -> None:
        """Has the next call start the threads, when they are gone; the caller holds REGION."""
        self._control[:] = 0
        self._threads.clear()
        self._started, self._starting = False, threading.Lock()

    def close(self) -> None:
        """Sends the worker threads home; no call may follow."""
        self._finalizer()


def _work(
    function: Callable[[int, int], None], control: npt.NDArray[np.int64], worker: int
) -> None:
    """A worker thread; it holds the control block that it reads, whoever gives up waiting for it."""
    function(control.ctypes.data, worker)


def _send_home(
    stop: Callable[[int], None], control: npt.NDArray[np.int64], threads: list[threading.Thread]
) -> None:
    if threads:
        stop(control.ctypes.data)
        for thread in threads:
            thread.join()
