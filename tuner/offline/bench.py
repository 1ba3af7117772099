"""Kind: what a job's runner asks of the kind of target that measures.

``tuner.offline.cpu`` and ``tuner.offline.gpu`` are modules of this shape. The runner's process asks for the
first part; ``open_bench`` and ``device`` are called in the process of one variant.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol, cast

from tuner.measure.bench import Bench
from tuner.offline.job import Job
from tuner.problem.weights import Weights


class Kind(Protocol):
    """A kind of target that can measure.

    Attributes:
        COPIES: of the weights, that are in memory while a variant runs.
        TRIAL_S: a process that takes longer hangs.
        WHERE: what to do where this machine cannot run a job.
    """

    COPIES: int
    TRIAL_S: float
    WHERE: str

    def cores(self, job: Job) -> frozenset[int]:
        """The cores of this machine that the job's processes run on.

        Raises JobError where there are too few.
        """

    def write(self, job: Job, folder: Path, weights: Weights, data: Path) -> None:
        """Writes the weights in the form that ``open_bench`` reads; ``folder`` is the job's."""

    def open_bench(self, folder: Path, data: Path) -> Bench:
        """The bench of a job. Raises KernelError where this machine cannot run it."""

    def device(self, bench: Any) -> dict[str, Any]:
        """What that bench measures on, and its ceilings now."""


def kind_of(job: Job) -> Kind:
    """The module for the job's target; a job folder has that one alone."""
    return cast(Kind, importlib.import_module(module_of(job.kind)))


def module_of(kind: str) -> str:
    """Name of the module for a kind of target."""
    return f"tuner.offline.{kind}"
