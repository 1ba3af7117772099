"""The rows of the database as values: what a tuner hands in and gets back.

Field names are column names. Times are nanoseconds or milliseconds by suffix; ``gb_s`` is
10^9 bytes a second, ``gflop_s`` 10^9 useful operations a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

STATUSES = ("ok", "invalid", "compile", "timeout", "crash", "wrong", "slow")


def now() -> str:
    """The current time in UTC, to the second, as ISO 8601: such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Environment(TypedDict, total=False):
    """Where and how a trial was measured, besides its Target. A row has the keys that its measurer knew;
    those of other measurers stay in the database as they came.

    Attributes:
        toolchain: the compiler's version, in full. A difference lowers a winner's rank.
        moetune, python, kernel: versions of this package, of Python, of the system's kernel.
        template: the template's digest.
        cpu, cores, load_1m: the processor's label, its cores, the load average of a minute.
        fma_limit, dot_limit, read_limit, copy_limit, dense_limit: the session's ceilings, in GFLOP/s and GB/s.
        noise_floor: the gain that counted, as a share.
        base: the name of the default that the ratio is to; of before it was said, that of the row's template.
        foreign: the share of the machine that other processes took meanwhile.
        probe_gb_s, probe_gflop_s: what was probed beside the race.
        doubted_ratio: a first ratio that was too good to be believed; the row's is that of another process.
        stage: `compare` of a finalist of another cell.
        passing: the failure was none of the variant's (a linker, memory, the time): it is tried again.
        name, driver, memory_bytes, copy_gb_s, read_gb_s, dense_gflop_s, clocks: of a GPU in a job folder.
    """

    toolchain: str
    moetune: str
    python: str
    kernel: str
    template: str
    cpu: str
    cores: int
    load_1m: float
    fma_limit: float
    dot_limit: float
    read_limit: float
    copy_limit: float
    dense_limit: float
    noise_floor: float
    base: str
    foreign: float
    probe_gb_s: float
    probe_gflop_s: float
    doubted_ratio: float
    stage: str
    passing: bool
    name: str
    driver: int
    memory_bytes: int
    copy_gb_s: float
    read_gb_s: float
    dense_gflop_s: float
    clocks: str


# What a trial's environment says of a failure that may not be there the next time.
PASSING = Environment(passing=True)


@dataclass(frozen=True, kw_only=True)
class MeasurementRow:
    """Timings of one trial: raw samples and what follows from them.

    Attributes:
        kind: ``trial`` (during the search), ``final`` (finalists, interleaved with the default) or
            ``audit`` (a winner measured again later; never what a winner rests on).
        temperature: of the weights: ``cold`` or ``warm``.
        samples: ns, in the order taken; empty in a row that was imported.
        sample_count: how many samples there were; follows ``samples`` unless given.
        low_ns, high_ns: interval of the median.
        ratio: time over the time of the default in the same race, with its interval.
        ceiling: name of the limit that ``ceiling_fraction`` is a fraction of.
        created: UTC, ISO 8601; the time of recording unless given, empty where it is not known.
    """

    median_ns: float
    low_ns: float
    high_ns: float
    kind: str = "trial"
    temperature: str = "cold"
    samples: tuple[float, ...] = ()
    sample_count: int = 0
    p95_ns: float | None = None
    p99_ns: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    gflop_s: float | None = None
    gb_s: float | None = None
    ceiling: str = ""
    ceiling_fraction: float | None = None
    created: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.samples:
            object.__setattr__(self, "sample_count", len(self.samples))


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One variant tried on one workload.

    The fields from ``id`` on are filled in by the database when it reads a row, and not looked at
    when it writes one.

    Attributes:
        message: first line of what went wrong; empty where nothing did.
        environment: whatever decides speed.
        session: one run of the tuner.
        created: UTC, ISO 8601; the time of recording unless given.
        measurements: in the order of recording.
    """

    target_id: str
    problem_id: str
    variant_id: str
    tokens: int
    load: str
    status: str
    message: str = ""
    source_digest: str = ""
    binary_key: str = ""
    render_ms: float | None = None
    compile_ms: float | None = None
    verify_ms: float | None = None
    benchmark_ms: float | None = None
    environment: Environment = field(default_factory=lambda: Environment())
    session: str = ""
    created: str = ""
    id: int | None = None
    template: str = ""
    variant: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    pack: str = ""
    measurements: tuple[MeasurementRow, ...] = ()

    @property
    def passing(self) -> bool:
        """Whether it says nothing of the variant: what failed may not fail the next time."""
        return bool(self.environment.get("passing"))

    @property
    def measurement(self) -> MeasurementRow | None:
        """The measurement of the search; of another kind where that one is not there."""
        return _last(self.measurements, "trial")

    @property
    def final(self) -> MeasurementRow | None:
        """The paired re-measurement; that of the search where the trial was no finalist."""
        return _last(self.measurements, "final")

    @property
    def audits(self) -> tuple[MeasurementRow, ...]:
        """What audits measured since, oldest first."""
        return tuple(row for row in self.measurements if row.kind == "audit")


@dataclass(frozen=True, kw_only=True)
class WinnerRow:
    """The best variant for one target, problem, token count and load.

    Attributes:
        trial_id: the winner's trial, of status ok and of the same target, problem and workload.
        default_trial_id: the trial of the template's default that it was paired with.
        ratio: time of the winner over time of the default, paired; below 1 is faster.
        ratio_low, ratio_high: its interval.
        is_default: the default itself won.
        regret: its time over that of the variant that is fastest for this workload alone: a session
            ships few. None where that was not measured.
        foreign_share: of the machine, what other processes took in its finals; None: not known.
    """

    trial_id: int
    target_id: str
    problem_id: str
    tokens: int
    load: str
    median_ns: float
    default_trial_id: int | None = None
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    is_default: bool = False
    gflop_s: float | None = None
    gb_s: float | None = None
    ceiling_fraction: float | None = None
    regret: float | None = None
    foreign_share: float | None = None
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionRow:
    """A session that went to its end.

    Attributes:
        data: what it kept and lost, each cell's outcome, and its pace; as JSON can hold it.
    """

    id: str
    target_id: str
    problem_id: str
    data: dict[str, Any]
    created: str = ""


@dataclass(frozen=True, kw_only=True)
class CeilingRow:
    """A measured limit of a target, such as its FMA peak (GFLOP/s) or read rate (GB/s)."""

    name: str
    value: float
    unit: str
    created: str = ""


def _last(rows: Sequence[MeasurementRow], kind: str) -> MeasurementRow | None:
    tuned = [row for row in rows if row.kind != "audit"]
    of_kind = [row for row in tuned if row.kind == kind] or tuned
    return of_kind[-1] if of_kind else None
