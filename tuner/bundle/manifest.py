"""The manifest of a bundle: what is in it, for whom, and which kernel serves which workload.

A manifest is JSON with sorted names; its bytes are what is signed, and it holds the digest of every other
member. Reading one trusts nothing: types, ranges, names and references are checked before anything is used.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from tuner.bundle.fields import Fields, read_json
from tuner.errors import BundleManifestError, ProblemError
from tuner.problem import Problem
from tuner.problem.workload import parse_load
from tuner.target import Target

FORMAT = "moetune-bundle"
VERSION = 1

_SHA256 = r"[0-9a-f]{64}"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}"
_PACK = f"({_WORD})?"
_MEMBER = r"[A-Za-z0-9_][A-Za-z0-9._+/-]{0,199}"


@dataclass(frozen=True)
class Member:
    """Size and SHA-256 of one member."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class BundledBuild:
    """One variant as it was compiled: `binary` and `source` are members, `target` what for."""

    template: str
    variant: str
    config: dict[str, int]
    pack: str
    binary: str
    source: str
    target: Target


@dataclass(frozen=True)
class TableRule:
    """Up to so many tokens (None: any more) this variant runs."""

    up_to_tokens: int | None
    variant: str


@dataclass(frozen=True)
class Table:
    """The rules of one load, by rising token count; all their variants read one packed form."""

    pack: str
    rules: tuple[TableRule, ...]


@dataclass(frozen=True)
class Evidence:
    """What was measured: the workload, the variant, and the row of the database."""

    tokens: int
    load: str
    variant: str
    row: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """What serves one target.

    Attributes:
        target: as it was named when the bundle was built; its features are those that the code needs.
        machine: instruction set, as ``uname -m`` has it; ``tuner.gpu.ptx`` for a GPU.
        tuned: whether the database had winners for it; `note` says what was taken.
        builds: by variant name.
        tables: by load; `uniform` is always there.
        probe: member: the binary that measures ceilings; of a GPU the program that reads.
    """

    target: Target
    machine: str
    tuned: bool
    note: str
    builds: dict[str, BundledBuild]
    tables: dict[str, Table]
    evidence: tuple[Evidence, ...]
    probe: str


@dataclass(frozen=True)
class SelfTestCase:
    """One case of the self-test: `arrays` are members, by what they hold."""

    tokens: int
    load: str
    arrays: dict[str, str]


@dataclass(frozen=True)
class SelfTest:
    """Inputs and right answers; the weights follow from the seed and have this SHA-256."""

    seed: int
    weights_sha256: str
    cases: tuple[SelfTestCase, ...]


@dataclass(frozen=True)
class Section:
    """All of one problem."""

    problem: Problem
    selftest: SelfTest
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Manifest:
    """All of a bundle. `abi` is that of the kernels, `members` lists every file but manifest and signature."""

    abi: int
    moetune: str
    toolchain: str
    members: dict[str, Member]
    sections: tuple[Section, ...]
    format: str = field(default=FORMAT)
    version: int = field(default=VERSION)

    def dump(self) -> bytes:
        """The one spelling of this manifest."""
        values = dataclasses.asdict(self) | {"sections": [_plain(s) for s in self.sections]}
        text = json.dumps(values, indent=1, sort_keys=True, allow_nan=False)
        return text.encode("ascii") + b"\n"


def _plain(section: Section) -> dict[str, Any]:
    """A section as JSON can hold it: problem and targets as their keys."""
    values = dataclasses.asdict(section)
    problem = section.problem
    values["problem"] = {"name": problem.name, "key": problem.key}
    for part, plain in zip(section.parts, values["parts"], strict=True):
        plain["target"] = _target_values(part.target)
        plain["builds"] = [
            {**dataclasses.asdict(build), "target": _target_values(build.target)}
            for build in part.builds.values()
        ]
    return values


def _target_values(target: Target) -> dict[str, Any]:
    return target.key | {"name": target.name}


def parse(data: bytes, label: str) -> Manifest:
    """Read a manifest. Raises BundleManifestError for what `dump` would not write."""
    top = read_json(data, f"{label}, manifest")
    if top.text("format") != FORMAT or top.count("version") != VERSION:
        top.refuse(f"is not of format {FORMAT} {VERSION}, which this moetune reads")
    members = {
        name: Member(row.count("bytes"), row.text("sha256", _SHA256))
        for name, row in top.fields("members").items()
    }
    sections = tuple(_section(row, members) for row in top.rows("sections"))
    digests = [section.problem.digest for section in sections]
    if not sections or len(set(digests)) != len(digests):
        top.refuse("must have sections, each of another problem")
    return Manifest(
        abi=top.count("abi"),
        moetune=top.text("moetune"),
        toolchain=top.text("toolchain"),
        members=members,
        sections=sections,
    )


def _section(row: Fields, members: dict[str, Member]) -> Section:
    named = row.fields("problem")
    try:
        problem = Problem.from_key(named.raw("key"), name=named.text("name"))
    except (ProblemError, TypeError) as error:
        raise BundleManifestError(f"{row.place}, problem: {error}") from error
    parts = tuple(_part(part, members) for part in row.rows("parts"))
    if not parts:
        row.refuse("has no parts")
    return Section(problem, _selftest(row.fields("selftest"), members), parts)


def _part(row: Fields, members: dict[str, Member]) -> Part:
    builds = {build.variant: build for build in (_build(b, members) for b in row.rows("builds"))}
    tables = {
        _load(load, table): Table(table.text("pack", _PACK), tuple(_rules(table, builds)))
        for load, table in row.fields("tables").items()
    }
    if "uniform" not in tables:
        row.refuse("has no table of the uniform load")
    evidence = tuple(_evidence(e, builds) for e in row.rows("evidence"))
    return Part(
        target=_target(row.fields("target")),
        machine=row.text("machine", _WORD),
        tuned=row.flag("tuned"),
        note=row.text("note"),
        builds=builds,
        tables=tables,
        evidence=evidence,
        probe=_member(row, "probe", members),
    )


def _build(row: Fields, members: dict[str, Member]) -> BundledBuild:
    return BundledBuild(
        template=row.text("template", _WORD),
        variant=row.text("variant", _WORD),
        config=row.fields("config").counts(),
        pack=row.text("pack", _PACK),
        binary=_member(row, "binary", members),
        source=_member(row, "source", members),
        target=_target(row.fields("target")),
    )


def _rules(table: Fields, builds: dict[str, BundledBuild]) -> list[TableRule]:
    """Thresholds rise, the last one is open, and every variant is there and reads the table's form."""
    rules = [
        TableRule(r.optional_count("up_to_tokens"), r.text("variant")) for r in table.rows("rules")
    ]
    limits = [rule.up_to_tokens for rule in rules]
    closed = [limit for limit in limits[:-1] if limit is not None]
    rising = all(a < b for a, b in itertools.pairwise(closed))
    if not limits or limits[-1] is not None or len(closed) != len(limits) - 1 or not rising:
        table.refuse("rules must rise to one without a limit")
    pack = table.text("pack")
    if any(r.variant not in builds or builds[r.variant].pack != pack for r in rules):
        table.refuse(
            "rules name a variant that is not among the builds, or reads another packed form"
        )
    return rules


def _evidence(row: Fields, builds: dict[str, BundledBuild]) -> Evidence:
    variant = row.text("variant", _WORD)
    if variant not in builds:
        row.refuse(f"{variant} is not among the builds")
    return Evidence(row.count("tokens"), _load(row.text("load"), row), variant, row.raw("row"))


def _selftest(row: Fields, members: dict[str, Member]) -> SelfTest:
    cases = []
    for case in row.rows("cases"):
        named = case.fields("arrays")
        arrays = {name: _member(named, name, members) for name in named.names()}
        cases.append(
            SelfTestCase(
                case.count("tokens", 1, 1 << 16), case.text("load", _WORD + "(:.*)?"), arrays
            )
        )
    return SelfTest(row.count("seed"), row.text("weights_sha256", _SHA256), tuple(cases))


def _load(text: str, row: Fields) -> str:
    try:
        return str(parse_load(text))
    except ProblemError as error:
        raise BundleManifestError(f"{row.place}: {error}") from error


def _member(row: Fields, name: str, members: dict[str, Member]) -> str:
    member = row.text(name, _MEMBER)
    if member not in members:
        row.refuse(f"{name} is {member}, which is no member")
    return member


def _target(row: Fields) -> Target:
    return Target(
        vendor=row.text("vendor"),
        arch=row.text("arch", _WORD),
        features=row.texts("features"),
        cores=row.count("cores", 1, 1 << 16),
        l1d_bytes=row.count("l1d_bytes"),
        l2_bytes=row.count("l2_bytes"),
        l3_bytes=row.count("l3_bytes"),
        kind=row.text("kind", "cpu|gpu"),
        name=row.text("name"),
        accelerator=row.text("accelerator"),
    )
