"""What a job's runner asks of the machine that measures, whatever its kind.

``tuner.offline.cpu`` and ``tuner.offline.gpu`` are modules of this shape. The runner's process asks for the
first part; ``open_bench`` is called in the process of one variant.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from tuner.offline.job import Job
from tuner.problem import Problem
from tuner.problem.weights import Weights

Line = Mapping[str, Any]


class Bench(Protocol):
    """A device, or the cores of a CPU, with a job's weights in its memory."""

    def device(self) -> Line:
        """What it is (``name``) and its ceilings now (``..._gb_s``, ``..._gflop_s``)."""

    def check(self, name: str, tokens: int) -> str:
        """Runs a variant on all cases of a token count; what was wrong, or nothing."""

    def race(self, names: Sequence[str], tokens: int, final: bool) -> Line:
        """Variants in turn, the default first: ``samples`` in ns by variant and round, paired by round.

        With them whatever else tells how the race was: ``twin`` (samples of a copy of the default, in a
        final), ``timing``.
        """


class Kind(Protocol):
    """Measuring on one kind of target.

    Attributes:
        COPIES: of the layer's weights that are in this machine's memory at once.
        TRIAL_S: limit of one process, all token counts of a variant together.
        WHERE: what to do where the machine does not fit.
    """

    COPIES: int
    TRIAL_S: float
    WHERE: str

    def cores(self, job: Job) -> frozenset[int]:
        """The cores that the processes of variants stay on.

        Raises JobError where there are too few.
        """

    def write(self, problem: Problem, weights: Weights, data: Path) -> None:
        """Writes the weights in the form that ``open_bench`` reads."""

    def open_bench(self, folder: Path, data: Path) -> Bench:
        """The bench of a job. Raises KernelError where this machine cannot run it."""


def kind_of(job: Job) -> Kind:
    """The module for the job's target; a job folder has that one alone."""
    return cast(Kind, importlib.import_module(module_of(job.kind)))


def module_of(kind: str) -> str:
    """Name of the module for a kind of target."""
    return f"tuner.offline.{kind}"
