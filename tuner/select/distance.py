"""Distance: whether winners can be the answer to a request, and in what they differ from it.

Every difference has a price in octaves of token count, the unit of all distances.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from tuner.select.selection import OTHER_LOAD, octaves
from tuner.select.winner_cache import Group
from tuner.space import space, templates
from tuner.target import Target, can_run

OTHER_COMPILER = 0.5
OTHER_CACHES = 0.5
OTHER_TEMPLATE = 0.5
# How many octaves of cores a winner that ships may be away. Nobody asked for it, and the shares of work that
# are right for 2 cores leave most of 64 idle, where the template's default for 64 does not.
MOST_CORES_APART = 1.0


@dataclass(frozen=True)
class SelectionRequest:
    """What is asked for: a workload, what the code has to run on, and what it has to read.

    Attributes:
        pack: the packed form of the weights; any where it is None.
        compiler: version to compile with; empty where there is none.
        installed: whether the variant's template has to be installed here.
    """

    tokens: int
    load: str
    target: Target
    pack: str | None
    compiler: str
    installed: bool = False


def cost(request: SelectionRequest, group: Group) -> float:
    """The price of all differences."""
    return sum(price for price, _ in differences(request, group))


def differences(request: SelectionRequest, group: Group) -> Iterator[tuple[float, str]]:
    """What lowers the rank of a whole group: the price in octaves, and the words for it."""
    here, there = request.target, group.target
    if group.load != request.load:
        yield OTHER_LOAD, f"load {group.load} instead of {request.load}"
    if request.compiler and group.compiler and group.compiler != request.compiler:
        yield OTHER_COMPILER, f"compiler {group.compiler} instead of {request.compiler}"
    if group.template_digest and not space.is_current(group.template, group.template_digest):
        known = group.template in templates.names()
        how = "was another when it was tuned" if known else "is not installed here"
        yield OTHER_TEMPLATE, f"template {group.template} {how}"
    if there.cores != here.cores:
        yield octaves(there.cores, here.cores), f"{there.cores} cores instead of {here.cores}"
    if _caches(there) != _caches(here):
        pairs = zip(("L1", "L2", "L3"), _caches(there), _caches(here), strict=True)
        others = [
            f"{level} of {a >> 10} KiB instead of {b >> 10} KiB" for level, a, b in pairs if a != b
        ]
        yield OTHER_CACHES, ", ".join(others)


def _caches(target: Target) -> tuple[int, int, int]:
    return target.l1d_bytes, target.l2_bytes, target.l3_bytes


def refusal(request: SelectionRequest, group: Group) -> str | None:
    """Why a group can never be the answer, whatever its rank; None where it can."""
    here, there = request.target, group.target
    if request.pack is not None and group.pack != request.pack:
        return f"packing {group.pack} instead of {request.pack}"
    known = group.template in templates.names()
    if request.installed and not known:
        return f"template {group.template} is not installed here"
    if known and not _fits(group.template, group.parameters):
        return f"template {group.template} has other parameters now"
    if there.kind != here.kind:
        return f"made for a {there.kind}"
    if group.shipped and octaves(there.cores, here.cores) > MOST_CORES_APART:
        return f"what moetune brings was tuned on {there.cores} cores, here are {here.cores}"
    if not _runs(here, there):
        lacking = [name for name in there.features if name not in here.features]
        return f"code for {there.arch} needs {', '.join(lacking[:4])}, which is not here"
    return None


@functools.lru_cache(maxsize=1024)
def _fits(name: str, parameters: frozenset[str]) -> bool:
    """Whether an installed template still has just the parameters of these winners."""
    return parameters == {p.name for p in space.load(name).parameters}


@functools.lru_cache(maxsize=1024)
def _runs(here: Target, there: Target) -> bool:
    return can_run(here, there.features)
