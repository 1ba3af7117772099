"""The Catalogue of a bundle: selection from its table, binaries from its members."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.bundle.choose import ladder
from tuner.bundle.elf import check_machine
from tuner.bundle.manifest import Evidence, Part, Section, Table, TableRule
from tuner.bundle.private import kept, private_folder, write_whole
from tuner.bundle.reader import Bundle, read_bundle
from tuner.errors import BundleProblemError
from tuner.host import json_text
from tuner.host.paths import cache_dir
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.selection import MAX_TOKEN_DISTANCE, OTHER_LOAD, Selection, octaves, other_tokens
from tuner.target import Target, detect
from tuner.target.features import LEVELS

_BINARY_MODE = 0o500
_PROGRAM_MODE = 0o400
_NOTE_MODE = 0o600


def open_bundle(
    path: Path,
    trust: str = "signed",
    problem: Problem | None = None,
    target: Target | None = None,
) -> BundleCatalogue:
    """The kernels of a bundle for this machine, checked.

    Args:
        trust: see `tuner.bundle.reader.read_bundle`.
        problem: which one, where the bundle holds several.
        target: what the code has to run on; this machine unless given.

    Raises:
        BundleError: one of its kinds for whatever is wrong with the bundle.
        UsageError: `trust` makes no sense.
    """
    bundle = read_bundle(Path(path), trust)
    section = section_of(bundle, problem)
    host = detect() if target is None else target
    parts = ladder(section.parts, host)
    preferred = read_choice(bundle, section, host)
    chosen = next((part for part in parts if part.target.label == preferred), parts[0])
    return BundleCatalogue(bundle, section, chosen, host)


def section_of(bundle: Bundle, problem: Problem | None) -> Section:
    """The section of a problem, or the only one. Raises BundleProblemError."""
    sections = bundle.manifest.sections
    names = ", ".join(s.problem.name or s.problem.describe() for s in sections)
    if problem is None:
        if len(sections) > 1:
            raise BundleProblemError(f"{bundle.path}: holds {names}; name one with problem=")
        return sections[0]
    for section in sections:
        if section.problem.digest == problem.digest:
            return section
    raise BundleProblemError(f"{bundle.path}: holds {names}, not {problem.describe()}")


class BundleCatalogue:
    """Kernels of one problem from one part of a bundle."""

    def __init__(self, bundle: Bundle, section: Section, part: Part, host: Target) -> None:
        self.bundle = bundle
        self.section = section
        self.part = part
        self.host = host
        self._limits = {
            load: [_limit(rule) for rule in table.rules] for load, table in part.tables.items()
        }

    @property
    def problem(self) -> Problem:
        """The one layer that these kernels run."""
        return self.section.problem

    def select(self, tokens: int, load: str, pack: str | None) -> Selection:
        """The variant that the table names for this workload.

        A load that has no table gets that of the uniform one. With `pack`, of the tables that read this
        packed form; they are those that this catalogue gave before.

        Raises BundleProblemError where no table reads it.
        """
        workload = Workload(tokens, load)
        named, table = self._table(workload.load, pack)
        at = bisect_left(self._limits[named], max(workload.tokens, 1))
        build = self.part.builds[table.rules[at].variant]
        found, distance = self._evidence(build.variant, workload)
        match, reason = self._match(workload, found)
        return Selection(
            template=build.template,
            variant=build.variant,
            config=dict(build.config),
            pack=build.pack,
            match=match,
            reason=reason,
            distance=math.inf if found is None else distance,
            evidence={} if found is None else dict(found.row),
            tokens=workload.tokens,
            load=workload.load,
            target=build.target,
            source="bundle",
        )

    def binary(self, selection: Selection) -> Path:
        """The library or program, in a private folder under its digest, compared with it just now."""
        return self.member(self.part.builds[selection.variant].binary)

    def member(self, name: str) -> Path:
        """One member that holds code, the same way."""
        content = self.bundle.archive.read(name)
        sha256 = self.bundle.manifest.members[name].sha256
        if self.part.target.kind == "gpu":
            return kept(folder(), content, sha256, _PROGRAM_MODE, ".ptx")
        check_machine(content, self.part.machine, f"{self.bundle.path}, {name}")
        return kept(folder(), content, sha256, _BINARY_MODE, ".so")

    def _table(self, load: str, pack: str | None) -> tuple[str, Table]:
        tables = self.part.tables
        for name in (load, "uniform", *tables):
            if name in tables and pack in (None, tables[name].pack):
                return name, tables[name]
        raise BundleProblemError(
            f"{self.bundle.path}: has no kernel for {self.part.target.label} that reads the packed form {pack}"
        )

    def _evidence(self, variant: str, workload: Workload) -> tuple[Evidence | None, float]:
        """The nearest measurement of a variant, as `tuner.select` counts distance; None where all are far."""
        best: tuple[float, Evidence] | None = None
        for row in self.part.evidence:
            apart = octaves(workload.tokens, row.tokens)
            distance = apart + OTHER_LOAD * (row.load != workload.load)
            near = row.variant == variant and apart <= MAX_TOKEN_DISTANCE
            if near and (best is None or distance < best[0]):
                best = (distance, row)
        return (best[1], best[0]) if best else (None, math.inf)

    def _match(self, workload: Workload, found: Evidence | None) -> tuple[str, str]:
        """How the variant matches, and one sentence of why."""
        arch = self.part.target.arch
        if found is None:
            label = self.part.target.label
            return "default", f"of a bundle: not tuned for this workload on {label}"
        notes = []
        if found.tokens != workload.tokens:
            notes.append(other_tokens(found.tokens, workload.tokens))
        if found.load != workload.load:
            notes.append(f"load {found.load} instead of {workload.load}")
        told = ", ".join(notes) or "same tokens and load"
        tuned_on = _card(found, self.part)
        if tuned_on != self.host.accelerator:
            both = f"tuned on {tuned_on}; this is {self.host.accelerator}, of {arch} too"
            return "arch", f"of a bundle, {both}: {told}"
        if not self._same_arch():
            return (
                "older",
                f"of a bundle, tuned for {arch}, whose code runs on {self.host.arch}: {told}",
            )
        if not tuned_on and not _same_machine(self.host, self.part.target):
            return "arch", f"of a bundle, tuned on another machine of architecture {arch}: {told}"
        match = "load" if found.load != workload.load else "tokens" if notes else "exact"
        return match, f"of a bundle, tuned on a machine like this: {told}"

    def _same_arch(self) -> bool:
        """Whether the part is for this architecture, as far as is known: without a compiler a
        host is only known by its level, and a part that runs and is newer than that may be its own."""
        arch = self.part.target.arch
        return self.host.arch == arch or (
            self.host.arch in LEVELS
            and arch not in LEVELS
            and self.host.vendor == self.part.target.vendor
        )


def _card(found: Evidence, part: Part) -> str:
    """The GPU that measured; empty for a processor."""
    return str(found.row.get("target", {}).get("accelerator", part.target.accelerator))


def _limit(rule: TableRule) -> float:
    return math.inf if rule.up_to_tokens is None else rule.up_to_tokens


def _same_machine(here: Target, there: Target) -> bool:
    names = ("cores", "l1d_bytes", "l2_bytes", "l3_bytes")
    return all(getattr(here, name) == getattr(there, name) for name in names)


def folder() -> Path:
    """Where binaries of bundles lie, and notes of what an install chose."""
    return cache_dir() / "bundles"


def read_choice(bundle: Bundle, section: Section, host: Target) -> str:
    """The architecture that `bundle install` found faster on this host than the first; empty for none."""
    path = private_folder(folder()) / _choice_name(bundle, section)
    try:
        noted: Mapping[str, Any] = json_text.parse(path.read_bytes())
        return str(noted["arch"]) if noted["host"] == host.digest else ""
    except (OSError, ValueError, KeyError, TypeError):  # never installed, or a note that is no use
        return ""


def write_choice(bundle: Bundle, section: Section, host: Target, arch: str) -> None:
    """Note the architecture to run on this host from now on."""
    text = json.dumps({"arch": arch, "host": host.digest})
    path = private_folder(folder()) / _choice_name(bundle, section)
    write_whole(path, text.encode(), _NOTE_MODE)


def _choice_name(bundle: Bundle, section: Section) -> str:
    return f"{bundle.manifest_sha256}-{section.problem.digest}.json"
