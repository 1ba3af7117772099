"""Bench: who tells whether a kernel is right and how fast it is, on cores or on a card, here or elsewhere.

``tuner.measure.cpu_bench`` and ``tuner.measure.cuda_bench`` are the two that hold a layer's weights. A session
asks one in a process of its own (``tuner.measure.worker``); a job folder's runner has one where the target is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuner.measure.race import DECODE_TOKENS, Effort, Race
from tuner.measure.verify import Verdict
from tuner.problem.workload import Workload
from tuner.target.roofline import Limits


class Configured(Protocol):
    """A variant, wherever it is described: of a session or of a job."""

    @property
    def pack(self) -> str: ...

    @property
    def config(self) -> Mapping[str, int]: ...

    @property
    def ragged(self) -> int: ...


@dataclass(frozen=True)
class Entrant:
    """A kernel in a race.

    Attributes:
        path: its binary.
        pack: the packed form of the weights that it reads.
        ragged: rows of its tiles; cases of all remainders are among those that verify it.
        workers: at most how many threads of a CPU share a call; 0: all that may be used.
    """

    path: Path
    pack: str
    ragged: int = 1
    workers: int = 0

    @classmethod
    def of(cls, variant: Configured, path: Path) -> Entrant:
        """A variant that was built."""
        return cls(path, variant.pack, variant.ragged, variant.config.get("workers", 0))


@dataclass(frozen=True)
class Timing:
    """A race with the work of one call (means over its inputs)."""

    race: Race
    flops: float
    read_bytes: float
    temperature: str


class Bench(Protocol):
    """One problem's weights on one target, made from a seed.

    Its methods raise KernelError where a kernel refuses, and whatever else a measuring process ends with.
    """

    def ceilings(self) -> Limits:
        """What the target can do at most, measured now."""

    def verify(self, entrant: Entrant, tokens: int) -> Verdict:
        """Whether a kernel is right on the cases of a token count, against float64."""

    def race(
        self,
        entrants: Sequence[Entrant],
        workload: Workload,
        effort: Effort,
        temperature: str = "auto",
    ) -> Timing:
        """Times kernels in turn on one workload; the first is the one that the others are compared with."""


def is_cold(workload: Workload, temperature: str, kind: str = "cpu") -> bool:
    """Whether the caches are emptied before each call, on this kind of target; a GPU's always are."""
    decodes = temperature == "auto" and workload.tokens <= DECODE_TOKENS
    return kind == "gpu" or temperature == "cold" or decodes
