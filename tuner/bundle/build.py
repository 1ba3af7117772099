"""Building a bundle: the kept kernels of problems and targets, with all that their user may ask about.

A pure function of the database, the templates and the compiler: no date, path or name of this machine goes in
but those that the rows of the database hold, so the same database gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tuner.bundle import selftest
from tuner.bundle.archive import MANIFEST, SIGNATURE, write
from tuner.bundle.elf import without_search_path
from tuner.bundle.manifest import BundledBuild, Manifest, Member, Part, Section
from tuner.bundle.signing import sign
from tuner.bundle.table import Choice, choose
from tuner.codegen import probes
from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.cpu.kernel import ABI
from tuner.errors import UsageError
from tuner.host.process import each
from tuner.host.toolchain import toolchain_version
from tuner.problem import Problem
from tuner.select.selection import Selection
from tuner.space.variant import make
from tuner.target import Target, can_run, detect
from tuner.version import __version__

HEADER = Path(__file__).parents[1] / "moetune.h"

Say = Callable[[str], None]


@dataclass
class _Content:
    """Members as they are gathered, and whom to tell what is going on."""

    say: Say
    members: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, content: bytes) -> str:
        self.members[name] = content
        return name


def build(
    problems: Sequence[Problem],
    targets: Sequence[Target],
    db: Path,
    say: Say = lambda _: None,
) -> bytes:
    """The bytes of an unsigned bundle.

    Kernels come from the compile cache, or are compiled. Where a target has no winner the template's default
    is compiled for it, and the manifest says so.

    Raises:
        UsageError: a problem or a target is named twice, or none.
        CompileError: a kernel is not in the cache, and the toolchain is missing or refuses it.
        SelfTestError: the weights of a problem do not fit in memory.
        DatabaseError: the database is damaged.
    """
    _check_unique("problem", [p.digest for p in problems], [p.describe() for p in problems])
    _check_unique("target", [t.label for t in targets], [t.label for t in targets])
    content = _Content(say)
    _compile_all(problems, targets, db, say)
    sections = tuple(_section(problem, targets, db, content) for problem in problems)
    if HEADER.is_file():
        content.add("include/moetune.h", HEADER.read_bytes())
    manifest = Manifest(
        abi=ABI,
        moetune=__version__,
        toolchain=toolchain_version(),
        members={
            name: Member(len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(content.members.items())
        },
        sections=sections,
    )
    return packed(manifest.dump(), content.members)


def packed(manifest: bytes, members: dict[str, bytes], key: Path | None = None) -> bytes:
    """The file of a manifest and its members, in the one order; signed where a private key is named."""
    first = {MANIFEST: manifest}
    if key is not None:
        first[SIGNATURE] = sign(manifest, key)
    return write({**first, **dict(sorted(members.items()))})


def _compile_all(
    problems: Sequence[Problem], targets: Sequence[Target], db: Path, say: Say
) -> None:
    """Fill the compile cache on all cores, so that what follows takes everything from there."""
    wanted = [
        (problem, selection)
        for problem in problems
        for target in targets
        for selection in choose(problem, target, db).selections.values()
    ]
    say(f"{len(wanted)} kernels, compiled where the cache lacks them")
    for _ in each(lambda pair: _library(*pair), wanted, len(os.sched_getaffinity(0))):
        pass


def _library(problem: Problem, selection: Selection) -> tuple[Path, str]:
    """The compiled library or GPU program, and its source."""
    source = render(problem, make(selection.template, selection.config))
    return compile_source(source.text, selection.target).path, source.text


def _check_unique(kind: str, keys: Sequence[str], names: Iterable[str]) -> None:
    if not keys or len(set(keys)) != len(keys):
        raise UsageError(f"{kind}s {', '.join(names) or 'none'}: name each {kind} once")


def _section(problem: Problem, targets: Sequence[Target], db: Path, content: _Content) -> Section:
    name = problem.name or problem.describe()
    content.say(f"{name}: working out the self-test")
    large = any(target.kind == "gpu" for target in targets)
    made, members = selftest.make(problem, f"selftest/{problem.digest}", large)
    content.members.update(members)
    parts = tuple(_part(problem, target, db, content) for target in targets)
    return Section(problem, made, parts)


def _part(problem: Problem, target: Target, db: Path, content: _Content) -> Part:
    choice = choose(problem, target, db)
    place = f"{problem.digest}/{target.label}"
    builds = {
        variant: _compiled(problem, selection, place, content)
        for variant, selection in sorted(choice.selections.items())
    }
    if target.kind == "gpu":
        served, machine = target, "ptx"
        ceilings = content.add(f"probe/{place}.ptx", probes.of_gpu(target).read_bytes())
    else:
        needed = sorted({name for build in builds.values() for name in build.target.features})
        served, machine = dataclasses.replace(target, features=tuple(needed)), platform.machine()
        library = without_search_path(probes.of_cpu(served).read_bytes())
        ceilings = content.add(f"probe/{place}.so", library)
    return Part(
        target=served,
        machine=machine,
        tuned=choice.tuned,
        note=_note(choice, target),
        builds=builds,
        tables=choice.tables,
        evidence=choice.evidence,
        probe=ceilings,
    )


def _compiled(
    problem: Problem, selection: Selection, place: str, content: _Content
) -> BundledBuild:
    path, source = _library(problem, selection)
    variant, binary = selection.variant, path.read_bytes()
    if selection.target.kind == "cpu":
        binary = without_search_path(binary)
    return BundledBuild(
        template=selection.template,
        variant=variant,
        config=dict(selection.config),
        pack=selection.pack,
        binary=content.add(f"bin/{place}/{variant}{path.suffix}", binary),
        source=content.add(f"src/{problem.digest}/{variant}.mojo", source.encode()),
        target=selection.target,
    )


def _note(choice: Choice, target: Target) -> str:
    if choice.tuned:
        cards = {row.row["target"]["accelerator"] for row in choice.evidence} - {target.accelerator}
        others = f", measured on {', '.join(sorted(cards))} ({target.arch}, too)" if cards else ""
        whose = "winners that moetune brings, " if choice.shipped else "winners "
        return f"{whose}tuned for {target.label}{others}"
    never = "; never run where this bundle was built"
    if target.kind == "cpu" and can_run(detect(), target.features):
        never = ""
    return f"nothing was tuned for {target.label}: the template's default, compiled for it{never}"
