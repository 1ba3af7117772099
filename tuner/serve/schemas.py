"""The shapes of answers, for the OpenAPI document and for who reads it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Config = dict[str, int]


class Answer(BaseModel):
    """Base: an answer has the fields that its document names, and no others."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="null")


class SelectionAnswer(Answer):
    """Which variant to run, how it matched, and on what evidence."""

    template: str
    variant: str
    config: Config
    pack: str = Field(description="The packed form of the weights that it reads.")
    match: Literal["exact", "tokens", "load", "arch", "older", "default"]
    reason: str = Field(
        description="Where the winner comes from and what differs from the request."
    )
    distance: float | None = Field(
        description="In octaves of tokens; 0 for an exact match, null for the template's default."
    )
    evidence: dict[str, Any] = Field(
        description="Times in ns, rates, ratio to the default, environment; empty for the default."
    )
    tokens: int
    load: str
    arch: str = Field(description="The architecture to compile for.")
    target: dict[str, Any] = Field(description="The key of the target to compile for.")
    source: Literal["database", "shipped", "default"] = Field(
        description="Whose winner it is: the database's, one that moetune brings, or none."
    )


class ProblemAnswer(Answer):
    """A layer: `key` is what `model` takes as JSON."""

    id: str
    name: str
    key: dict[str, Any]
    description: str
    trials: int
    winners: int


class ProblemsAnswer(Answer):
    problems: list[ProblemAnswer]
    next: str | None = Field(description="What `after` takes for the next page; null on the last.")


class CeilingAnswer(Answer):
    value: float
    unit: str
    created: str


class TargetAnswer(Answer):
    """A machine: `key` is what `target` takes as JSON."""

    id: str
    arch: str
    name: str
    key: dict[str, Any]
    ceilings: dict[str, CeilingAnswer] = Field(description="Measured limits by name.")


class TargetsAnswer(Answer):
    targets: list[TargetAnswer]
    next: str | None = Field(description="What `after` takes for the next page; null on the last.")


class MeasurementAnswer(Answer):
    """Timings; `ratio` is the time over the default's in the same race."""

    kind: str
    temperature: str
    sample_count: int
    median_ns: float
    low_ns: float
    high_ns: float
    p95_ns: float | None
    p99_ns: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    gflop_s: float | None
    gb_s: float | None
    ceiling: str
    ceiling_fraction: float | None


class TrialAnswer(Answer):
    """A variant tried on a workload; `measurement` is null where it failed."""

    id: int
    problem_id: str
    problem_name: str
    target_id: str
    arch: str
    tokens: int
    load: str
    status: str
    message: str
    template: str
    variant: str
    config: Config
    source_digest: str
    compile_ms: float | None
    verify_ms: float | None
    benchmark_ms: float | None
    environment: dict[str, Any]
    session: str
    created: str
    measurement: MeasurementAnswer | None


class TrialsAnswer(Answer):
    trials: list[TrialAnswer]
    next: int | None = Field(description="What `after` takes for the next page; null on the last.")


class WonAnswer(Answer):
    problem_id: str
    problem_name: str
    target_id: str
    arch: str
    tokens: int
    load: str


class VariantAnswer(Answer):
    """A point of a template's space; `won` are workloads of this database."""

    name: str
    template: str
    config: Config
    pack: str
    trials: int
    won: list[WonAnswer]


class HealthAnswer(Answer):
    status: Literal["ok"]
    version: str
    problems: int
    targets: int
    trials: int
    winners: int


class LineAnswer(Answer):
    """One line of what was sent: its workload, and whether it was taken."""

    line: int
    problem_id: str
    target_id: str
    tokens: int
    load: str
    outcome: Literal["taken", "same", "kept"]
    reason: str


class ResultsAnswer(Answer):
    """How many lines were taken, were there already, or left what is there."""

    taken: int
    same: int
    kept: int
    lines: list[LineAnswer]


class BundlePartAnswer(Answer):
    """What a bundle holds for one problem on one architecture."""

    problem_id: str
    problem_name: str
    arch: str
    tuned: bool = Field(description="Whether there were winners; else the template's default.")
    note: str


class BundleAnswer(Answer):
    """A bundle: one file of tuned kernels."""

    id: str = Field(description="SHA-256 of its bytes.")
    bytes: int
    signer: str = Field(description="Id of the key that signed it; empty: nobody trusted here.")
    abi: int
    toolchain: str
    parts: list[BundlePartAnswer]
    created: str


class BundlesAnswer(Answer):
    bundles: list[BundleAnswer]
    next: str | None = Field(description="What `after` takes for the next page; null on the last.")
