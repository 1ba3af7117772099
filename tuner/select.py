"""Select: which variant to run for a request, how it matched, and on what evidence.

The answer comes from the winners of the same problem alone. One list, ``LADDER``, is the order of
fallback; within a rung the least distance wins. Distances are in octaves of token count; the other
differences are priced in the same unit by the constants below.
"""

from __future__ import annotations

import functools
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner import space, template
from tuner.compile import toolchain_version
from tuner.database import Database, default_path
from tuner.errors import CompileError
from tuner.problem import Problem
from tuner.selection import MAX_TOKEN_DISTANCE, OTHER_LOAD, Selection
from tuner.target import Target, can_run, detect, older
from tuner.variant import Variant, default_variant
from tuner.winners import Group, Row, winners
from tuner.workload import Workload

OTHER_COMPILER = 0.5
OTHER_CACHES = 0.5
OTHER_TEMPLATE = 0.5
OLDER_ARCHITECTURE = 1.0  # for each step down the list of architectures
UNRELATED_ARCHITECTURE = 3.0  # newer, or of another line

EVIDENCE = (
    "trial_id", "tokens", "load", "median_ns", "low_ns", "high_ns", "p95_ns", "p99_ns",
    "sample_count", "temperature", "gflop_s", "gb_s", "ceiling", "ceiling_fraction", "ratio",
    "ratio_low", "ratio_high", "is_default", "target", "environment", "source_digest",
    "binary_key", "created",
)  # fmt: skip

Default = Callable[[Problem, Target, str | None, int], Variant]


@dataclass(frozen=True)
class _Request:
    tokens: int
    load: str
    target: Target
    pack: str | None
    compiler: str


@dataclass(frozen=True)
class _Found:
    distance: float
    group: Group
    row: Row


def best_config(
    problem: Problem,
    tokens: int,
    load: str = "uniform",
    target: Target | None = None,
    db: Database | str | os.PathLike[str] | None = None,
    pack: str | None = None,
    *,
    default: Default = default_variant,
    compiler: str | None = None,
) -> Selection:
    """Select the variant to run; without a winner that fits it is the template's default.

    Args:
        target: what the code has to run on; this machine unless given.
        db: the database or its path; ``default_path()`` unless given. One that is not there
            counts as empty.
        pack: only variants that read this packed form of the weights.
        default: gives the default from (problem, target, pack, tokens).
        compiler: version to compile with; the installed one unless given.

    Raises:
        ProblemError: ``tokens`` or ``load`` make no sense.
        DatabaseError: the database is damaged, or from another version of moetune.
    """
    workload = Workload(tokens, load)
    target = _host() if target is None else target
    compiler = _installed_compiler() if compiler is None else compiler
    request = _Request(workload.tokens, workload.load, target, pack, compiler)
    groups = winners(_path(db), problem)
    refusals = [_refusal(request, group) for group in groups]
    usable = [group for group, refusal in zip(groups, refusals, strict=True) if not refusal]
    for rung in LADDER:
        if found := rung(request, usable):
            return _selection(request, rung, found)
    variant = default(problem, target, pack, max(workload.tokens, 1))
    return _default_selection(request, variant, _why_default(groups, refusals))


def unlike(workload: Workload, target: Target, compiler: str, group: Group) -> float:
    """How far the winners of a group are from a request, in octaves, but for problem and token count.

    Whether their code runs on the target does not matter here.
    """
    request = _Request(workload.tokens, workload.load, target, None, compiler)
    steps = {arch: step for step, arch in enumerate((target.arch, *older(target.arch)))}
    step = steps.get(group.target.arch)
    price = UNRELATED_ARCHITECTURE if step is None else step * OLDER_ARCHITECTURE
    return price + _cost(request, group)


def exact(request: _Request, groups: Iterable[Group]) -> _Found | None:
    """Return the winner of this very request, made with this compiler."""
    same = [group for group in groups if _on_target(request, group) and not _cost(request, group)]
    return _closest(request, ((0.0, group) for group in same), furthest=0.0)


def nearest(request: _Request, groups: Iterable[Group]) -> _Found | None:
    """Return the nearest of this target: other tokens, another load, another compiler."""
    here = [group for group in groups if _on_target(request, group)]
    return _closest(request, ((0.0, group) for group in here))


def same_architecture(request: _Request, groups: Iterable[Group]) -> _Found | None:
    """Return the nearest of other machines of this architecture (cores, caches)."""
    same = [group for group in groups if group.target.arch == request.target.arch]
    return _closest(request, ((0.0, group) for group in same))


def older_architecture(request: _Request, groups: Iterable[Group]) -> _Found | None:
    """Return the nearest of the architectures whose code runs here."""
    steps = {arch: step for step, arch in enumerate(older(request.target.arch), start=1)}
    known = [group for group in groups if group.target.arch in steps]
    return _closest(
        request, ((steps[group.target.arch] * OLDER_ARCHITECTURE, group) for group in known)
    )


Rung = Callable[[_Request, Iterable[Group]], _Found | None]

# The one order of fallback; after it comes the default of the template.
LADDER: tuple[Rung, ...] = (exact, nearest, same_architecture, older_architecture)


def _closest(
    request: _Request,
    groups: Iterable[tuple[float, Group]],
    furthest: float = MAX_TOKEN_DISTANCE,
) -> _Found | None:
    """Return the row of least distance whose token count is no further than ``furthest``."""
    best: _Found | None = None
    for extra, group in groups:
        octaves, row = _nearest_tokens(group, request.tokens)
        distance = octaves + extra + _cost(request, group)
        if octaves <= furthest and (best is None or distance < best.distance):
            best = _Found(distance, group, row)
    return best


def _nearest_tokens(group: Group, tokens: int) -> tuple[float, Row]:
    """Return the distance in octaves and the row; of two as near, that of fewer tokens."""
    at = bisect_left(group.tokens, tokens)
    near = range(max(at - 1, 0), min(at + 1, len(group.tokens)))
    octaves, index = min((_octaves(group.tokens[i], tokens), i) for i in near)
    return octaves, group.rows[index]


def _octaves(a: int, b: int) -> float:
    return abs(math.log2(max(a, 1) / max(b, 1)))


def _on_target(request: _Request, group: Group) -> bool:
    return group.target.digest == request.target.digest


def _cost(request: _Request, group: Group) -> float:
    return sum(price for price, _ in _differences(request, group))


def _differences(request: _Request, group: Group) -> Iterator[tuple[float, str]]:
    """What lowers the rank of a whole group: the price in octaves, and the words for it."""
    here, there = request.target, group.target
    if group.load != request.load:
        yield OTHER_LOAD, f"load {group.load} instead of {request.load}"
    if request.compiler and group.compiler and group.compiler != request.compiler:
        yield OTHER_COMPILER, f"compiler {group.compiler} instead of {request.compiler}"
    if group.template_digest and group.template_digest != _template_digest(group.template):
        yield OTHER_TEMPLATE, f"template {group.template} was another when it was tuned"
    if there.cores != here.cores:
        yield _octaves(there.cores, here.cores), f"{there.cores} cores instead of {here.cores}"
    if _caches(there) != _caches(here):
        yield OTHER_CACHES, f"caches of {_sizes(there)} KiB instead of {_sizes(here)} KiB"


def _caches(target: Target) -> tuple[int, int, int]:
    return target.l1d_bytes, target.l2_bytes, target.l3_bytes


def _sizes(target: Target) -> str:
    return "/".join(str(size >> 10) for size in _caches(target))


def _refusal(request: _Request, group: Group) -> str | None:
    """Why a group can never be the answer, whatever its rank; None where it can."""
    here, there = request.target, group.target
    if request.pack is not None and group.pack != request.pack:
        return f"packing {group.pack} instead of {request.pack}"
    if group.template in template.names() and not _fits(group):
        return f"template {group.template} has other parameters now"
    if there.kind != here.kind:
        return f"made for a {there.kind}"
    if not _runs(here, there):
        lacking = [name for name in there.features if name not in here.features]
        return f"code for {there.arch} needs {', '.join(lacking[:4])}, which is not here"
    return None


def _fits(group: Group) -> bool:
    """Whether the template still has just the parameters of these winners."""
    return group.parameters == {p.name for p in space.load(group.template).parameters}


@functools.cache
def _template_digest(name: str) -> str:
    return template.digest(name) if name in template.names() else ""


@functools.lru_cache(maxsize=1024)
def _runs(here: Target, there: Target) -> bool:
    return can_run(here, there.features)


def _selection(request: _Request, rung: Rung, found: _Found) -> Selection:
    row, there = found.row, found.group.target
    tokens = row["tokens"]
    place = _PLACES[rung].format(arch=there.arch, here=request.target.arch)
    notes = [note for _, note in _differences(request, found.group)]
    if tokens != request.tokens:
        notes.insert(0, f"{tokens} tokens instead of {request.tokens}")
    return Selection(
        template=row["template"],
        variant=row["variant"],
        config=dict(row["config"]),
        pack=found.group.pack,
        match=_match(request, rung, found),
        reason=f"winner {place}: {', '.join(notes) or 'same tokens and load'}",
        distance=found.distance,
        evidence={name: row[name] for name in EVIDENCE},
        tokens=request.tokens,
        load=request.load,
        target=there,
    )


_PLACES: dict[Rung, str] = {
    exact: "tuned on this target",
    nearest: "tuned on this target",
    same_architecture: "tuned on another machine of architecture {arch}",
    older_architecture: "tuned for {arch}, whose code runs on {here}",
}


def _match(request: _Request, rung: Rung, found: _Found) -> str:
    if rung is same_architecture:
        return "arch"
    if rung is older_architecture:
        return "older"
    if found.group.load != request.load:
        return "load"
    return "exact" if found.row["tokens"] == request.tokens else "tokens"


def _default_selection(request: _Request, variant: Variant, reason: str) -> Selection:
    return Selection(
        template=variant.template,
        variant=variant.name,
        config=dict(variant.config),
        pack=variant.pack,
        match="default",
        reason=reason,
        distance=math.inf,
        evidence={},
        tokens=request.tokens,
        load=request.load,
        target=request.target,
    )


def _why_default(groups: Sequence[Group], refusals: Sequence[str | None]) -> str:
    if not groups:
        return "the template's default: no winner of this problem is recorded"
    count = sum(len(group.rows) for group in groups)
    told = sorted({refusal for refusal in refusals if refusal})[:3]
    if None in refusals:
        octaves = f"{MAX_TOKEN_DISTANCE:g} octaves of tokens"
        told.append(f"more than {octaves} away or for an architecture that is no older one")
    return f"the template's default: {count} winners of this problem, none fits: {'; '.join(told)}"


def _path(db: Database | str | os.PathLike[str] | None) -> Path:
    if db is None:
        return default_path()
    return db.path if isinstance(db, Database) else Path(db)


@functools.cache
def _host() -> Target:
    return detect()


@functools.cache
def _installed_compiler() -> str:
    try:
        return toolchain_version()
    except CompileError:  # nothing to compare with: cached binaries run without a compiler
        return ""
