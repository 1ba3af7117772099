"""Builder: compiles variants ahead of the measuring, and never in its way.

A compiler that runs beside a kernel halves the kernel's speed. Where the machine has cores that no
kernel uses, builds run there all the time; where it has none, they run in batches on all cores, and
`settle` waits for them before anything is timed.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType

from tuner.host.cores import of_same_core
from tuner.host.process import Children
from tuner.host.quota import cores_within
from tuner.measure import trial as trials
from tuner.measure.trial import Build
from tuner.problem import Problem
from tuner.space.variant import Variant, source_name
from tuner.target import Target

# A compiler keeps one core busy and a little of a second one.
MOST_BUILDERS = 8
# Batches of this many variants for each builder, which it compiles in one run: more cost less each, but
# the search decides on so many without knowing the others' times (both measured: docs/results/search.md).
BATCH_PER_BUILDER = 3

Make = Callable[[Problem, Target, Sequence[Variant]], Sequence[Build]]


@dataclass(frozen=True)
class Cores:
    """Which of this process's cores measure, and which are free for builds meanwhile."""

    measuring: frozenset[int]
    spare: frozenset[int]


def measuring_cores(target: Target) -> int:
    """How many cores measure: a CPU's own; one that launches a GPU's kernels."""
    return target.cores if target.kind == "cpu" else 1


def split_cores(
    wanted: int,
    allowed: frozenset[int] | None = None,
    siblings: Callable[[int], frozenset[int]] | None = None,
) -> Cores:
    """The first `wanted` cores measure; the others are spare but for those that share a core's units.

    Where processor time is rationed none is spare: builds would take from what is measured. `allowed` (this
    process's) and `siblings` (the system's word on a core) can be given.
    """
    ordered = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    measuring = frozenset(ordered[:wanted])
    if allowed is None and cores_within(len(ordered)) < len(ordered):
        return Cores(measuring, frozenset())
    shared = frozenset().union(*map(siblings or of_same_core, measuring))
    return Cores(measuring, frozenset(ordered) - measuring - shared)


class Builder:
    """A pool that builds each variant once; use it as a context manager.

    Variants that were submitted are dealt to the builders by `start`, or when one of them is needed.
    `variants` are those that it was asked for or told of.
    """

    def __init__(
        self, problem: Problem, target: Target, cores: Cores, make: Make = trials.build_all
    ) -> None:
        self._problem, self._target, self._make = problem, target, make
        self.ahead = bool(cores.spare)
        self.builders = max(1, min(MOST_BUILDERS, len(cores.spare or cores.measuring)))
        self._spare = cores.spare
        self._compilers = Children()
        self._pool = ThreadPoolExecutor(self.builders, "build", self._begin_thread)
        self._builds: dict[str, Future[Build]] = {}
        self._waiting: list[Variant] = []
        self.variants: list[Variant] = []
        self._compiled: set[str] = set()
        self.waited_s = 0.0

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:  # nobody waits for what is being built
            self._compilers.end()
        self._pool.shutdown(cancel_futures=True)

    def _begin_thread(self) -> None:
        self._compilers.adopt()
        if self.ahead:
            os.sched_setaffinity(0, self._spare)  # children inherit a thread's

    @property
    def batch(self) -> int:
        """How many variants to ask for at a time."""
        return BATCH_PER_BUILDER * self.builders

    @property
    def compiled(self) -> int:
        """How many variants this builder has compiled: those from the cache don't count."""
        return len(self._compiled)

    def submit(self, variant: Variant) -> Future[Build]:
        """What a variant's build will be, or is."""
        if variant.id not in self._builds:
            self.note(variant)
            self._builds[variant.id] = Future()
            self._waiting.append(variant)
        return self._builds[variant.id]

    def start(self) -> None:
        """Begins to build what was submitted, in even shares."""
        sources: dict[str, list[Variant]] = {}
        for variant in self._waiting:
            sources.setdefault(source_name(variant), []).append(variant)
        together = list(sources.values())  # what differs in its threads alone is one build
        count = min(len(together), self.builders)
        for number in range(count):
            share = [variant for same in together[number::count] for variant in same]
            job = self._pool.submit(self._make, self._problem, self._target, share)
            job.add_done_callback(functools.partial(self._deal, share))
        self._waiting = []

    def _deal(self, share: Sequence[Variant], job: Future[Sequence[Build]]) -> None:
        """Each variant's build, or the error that ended them all, to who waits for it."""
        futures = [self._builds[variant.id] for variant in share]
        if job.cancelled() or job.exception() is not None:
            for future in futures:
                future.set_exception(CancelledError() if job.cancelled() else job.exception())
            return
        for variant, future, built in zip(share, futures, job.result(), strict=True):
            if built.binary is not None and not built.binary.cached:
                self._compiled.add(variant.id)
            future.set_result(built)

    def note(self, variant: Variant) -> None:
        """A variant that an earlier session built; it is built here only when somebody asks for it."""
        if variant not in self.variants:
            self.variants.append(variant)

    def get(self, variant: Variant) -> Build:
        """A variant's build, with nothing else building where that would disturb. Raises CompileError
        when the toolchain is missing."""
        future = self.submit(variant)
        self.settle(future)
        return future.result()

    def settle(self, needed: Future[Build] | None = None) -> None:
        """Waits until the machine is free for measuring, and what is needed is there."""
        start = time.monotonic()
        self.start()
        if self.ahead:
            wait([needed] if needed else [])
        else:
            wait(list(self._builds.values()))
        self.waited_s += time.monotonic() - start
