"""Select: which variant to run for a request, how it matched, and on what evidence.

The answer comes from the winners of the same problem alone: the user's own, and those that moetune brings.
One list, ``LADDER``, is the order of fallback; within a rung the user's own come before those that ship, and of
either the least distance wins. Distances are in octaves of token count; the other
differences are priced in the same unit by ``tuner.select.distance`` and the constants below.
"""

from __future__ import annotations

import functools
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import CompileError
from tuner.host.arguments import require
from tuner.host.toolchain import toolchain_version
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.distance import SelectionRequest, cost, differences, refusal
from tuner.select.selection import MAX_TOKEN_DISTANCE, Selection, octaves, other_tokens
from tuner.select.winner_cache import Group, Row, shipped_winners, winners
from tuner.space.variant import Variant, default_variant
from tuner.store.database import Database, path_to_read
from tuner.target import Target, detect, older

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
class Found:
    """A winner that was selected, and on which rung of the ladder."""

    request: SelectionRequest
    rung: Rung
    distance: float
    group: Group
    row: Row

    @property
    def match(self) -> str:
        """How it matched, as a Selection says it."""
        if self.rung is same_architecture:
            return "arch"
        if self.rung is older_architecture:
            return "older"
        if self.group.load != self.request.load:
            return "load"
        return "exact" if self.row["tokens"] == self.request.tokens else "tokens"

    @property
    def source(self) -> str:
        """Whose winner it is, as a Selection says it."""
        return "shipped" if self.group.shipped else "database"

    @property
    def reason(self) -> str:
        """Where the winner comes from, and what differs from the request."""
        request, tokens = self.request, self.row["tokens"]
        place = _PLACES[self.rung].format(arch=self.group.target.arch, here=request.target.arch)
        notes = [note for _, note in differences(request, self.group)]
        if tokens != request.tokens:
            notes.insert(0, other_tokens(tokens, request.tokens))
        whose = "shipped winner" if self.group.shipped else "winner"
        return f"{whose} {place}: {', '.join(notes) or 'same tokens and load'}"

    def selection(self) -> Selection:
        row = self.row
        return Selection(
            template=row["template"],
            variant=row["variant"],
            config=dict(row["config"]),
            pack=self.group.pack,
            match=self.match,
            reason=self.reason,
            distance=self.distance,
            evidence={name: row[name] for name in EVIDENCE},
            tokens=self.request.tokens,
            load=self.request.load,
            target=self.group.target,
            source=self.source,
        )


@dataclass(frozen=True)
class Fallback:
    """The template's default, since no winner fits."""

    request: SelectionRequest
    variant: Variant
    reason: str
    source: str = "default"

    def selection(self) -> Selection:
        return Selection(
            template=self.variant.template,
            variant=self.variant.name,
            config=self.variant.config,
            pack=self.variant.pack,
            match="default",
            reason=self.reason,
            distance=math.inf,
            evidence={},
            tokens=self.request.tokens,
            load=self.request.load,
            target=self.request.target,
            source=self.source,
        )


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
    installed: bool = False,
) -> Selection:
    """Select the variant to run; without a winner that fits it is the template's default.

    Winners are those of the database, then those that moetune brings (not where ``MOETUNE_SHIPPED`` is 0).

    Args:
        target: what the code has to run on; this machine unless given.
        db: the database or its path; ``default_path()`` unless given, which counts as empty where it is
            not there yet.
        pack: only variants that read this packed form of the weights.
        default: gives the default from (problem, target, pack, tokens).
        compiler: version to compile with; the installed one unless given.
        installed: only variants of templates that are installed here, as who builds them needs.

    Raises:
        ProblemError: ``tokens`` or ``load`` make no sense.
        UsageError: an argument is of another class.
        DatabaseError: the database is damaged, from another version of moetune, or was named and is not
            there.
    """
    require("problem", problem, Problem)
    require("target", target, Target, type(None), mend="tuner.target.named makes one")
    require("pack", pack, str, type(None))
    path = path_to_read(db)
    return answer(
        problem, tokens, load, target, path, pack,
        default=default, compiler=compiler, installed=installed,
    )  # fmt: skip


def answer(
    problem: Problem,
    tokens: int,
    load: str,
    target: Target | None,
    path: Path,
    pack: str | None,
    *,
    default: Default = default_variant,
    compiler: str | None = None,
    installed: bool = False,
) -> Selection:
    """``best_config`` of the database at a path; where there is none, only what ships has won."""
    workload = Workload(tokens, load)
    target = _host() if target is None else target
    groups = (*winners(path, problem), *shipped_winners(problem))
    found = choose(problem, workload, target, groups, pack, compiler, default, installed)
    return found.selection()


def choose(
    problem: Problem,
    workload: Workload,
    target: Target,
    groups: Sequence[Group],
    pack: str | None = None,
    compiler: str | None = None,
    default: Default = default_variant,
    installed: bool = False,
) -> Found | Fallback:
    """The same where the problem's winners are at hand."""
    compiler = _installed_compiler() if compiler is None else compiler
    request = SelectionRequest(workload.tokens, workload.load, target, pack, compiler, installed)
    refusals = [refusal(request, group) for group in groups]
    usable = [group for group, refused in zip(groups, refusals, strict=True) if not refused]
    own = [group for group in usable if not group.shipped]
    brought = [group for group in usable if group.shipped]
    for rung in LADDER:
        if found := rung(request, own) or rung(request, brought):
            return found
    variant = default(problem, target, pack, max(workload.tokens, 1))
    return Fallback(request, variant, _why_default(groups, refusals))


def unlike(workload: Workload, target: Target, compiler: str, group: Group) -> float:
    """How far the winners of a group are from a request, in octaves, but for problem and token count.

    Whether their code runs on the target does not matter here.
    """
    request = SelectionRequest(workload.tokens, workload.load, target, None, compiler)
    steps = {arch: step for step, arch in enumerate((target.arch, *older(target.arch)))}
    step = steps.get(group.target.arch)
    price = UNRELATED_ARCHITECTURE if step is None else step * OLDER_ARCHITECTURE
    return price + cost(request, group)


def exact(request: SelectionRequest, groups: Iterable[Group]) -> Found | None:
    """Return the winner of this very request, made with this compiler."""
    same = (
        (0.0, group)
        for group in groups
        if group.load == request.load and _on_target(request, group) and not cost(request, group)
    )
    return _closest(request, exact, same, furthest=0.0)


def nearest(request: SelectionRequest, groups: Iterable[Group]) -> Found | None:
    """Return the nearest of this target: other tokens, another load, another compiler."""
    here = ((0.0, group) for group in groups if _on_target(request, group))
    return _closest(request, nearest, here)


def same_architecture(request: SelectionRequest, groups: Iterable[Group]) -> Found | None:
    """Return the nearest of other machines of this architecture (cores, caches)."""
    same = ((0.0, group) for group in groups if group.target.arch == request.target.arch)
    return _closest(request, same_architecture, same)


def older_architecture(request: SelectionRequest, groups: Iterable[Group]) -> Found | None:
    """Return the nearest of the architectures whose code runs here."""
    steps = {arch: step for step, arch in enumerate(older(request.target.arch), start=1)}
    known = (
        (steps[group.target.arch] * OLDER_ARCHITECTURE, group)
        for group in groups
        if group.target.arch in steps
    )
    return _closest(request, older_architecture, known)


Rung = Callable[[SelectionRequest, Iterable[Group]], Found | None]

# The one order of fallback; after it comes the default of the template.
LADDER: tuple[Rung, ...] = (exact, nearest, same_architecture, older_architecture)

_PLACES: dict[Rung, str] = {
    exact: "tuned on this target",
    nearest: "tuned on this target",
    same_architecture: "tuned on another machine of architecture {arch}",
    older_architecture: "tuned for {arch}, whose code runs on {here}",
}


def _closest(
    request: SelectionRequest,
    rung: Rung,
    groups: Iterable[tuple[float, Group]],
    furthest: float = MAX_TOKEN_DISTANCE,
) -> Found | None:
    """Return the row of least distance whose token count is no further than ``furthest``."""
    best: tuple[float, Group, int] | None = None
    for extra, group in groups:
        away, index = _nearest_tokens(group, request.tokens)
        if away > furthest:
            continue
        distance = away + extra + cost(request, group)
        if best is None or distance < best[0]:
            best = (distance, group, index)
    if best is None:
        return None
    distance, group, index = best
    return Found(request, rung, distance, group, group.rows[index])


def _nearest_tokens(group: Group, tokens: int) -> tuple[float, int]:
    """Return the distance in octaves and which row; of two as near, that of fewer tokens."""
    at = bisect_left(group.tokens, tokens)
    near = range(max(at - 1, 0), min(at + 1, len(group.tokens)))
    return min((octaves(group.tokens[i], tokens), i) for i in near)


def _on_target(request: SelectionRequest, group: Group) -> bool:
    return group.target.digest == request.target.digest


def _why_default(groups: Sequence[Group], refusals: Sequence[str | None]) -> str:
    if not groups:
        return "the template's default: no winner of this problem is recorded"
    count = sum(len(group.rows) for group in groups)
    told = sorted({refused for refused in refusals if refused})[:3]
    if None in refusals:
        furthest = f"{MAX_TOKEN_DISTANCE:g} octaves of tokens"
        told.append(f"more than {furthest} away or for an architecture that is no older one")
    return f"the template's default: {count} winners of this problem, none fits: {'; '.join(told)}"


@functools.cache
def _host() -> Target:
    return detect()


@functools.cache
def _installed_compiler() -> str:
    try:
        return toolchain_version()
    except CompileError:  # nothing to compare with: cached binaries run without a compiler
        return ""
