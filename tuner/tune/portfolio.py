"""Keep: the few variants that a session ships, which of them serves which workload, and what that loses.

Everything here is arithmetic on ratios to each cell's own default, paired in one race.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuner.problem.workload import Workload

# A larger set must lower the mean logarithm of the loss by this much.
WORTH = 0.001


@dataclass(frozen=True)
class Entry:
    """A variant measured in a cell: its ratio to the cell's default, with the ratio's interval.

    `proven`: the finals found it surely faster than the default. `distance` is in how many
    parameters it differs from the default.
    """

    ratio: float
    low: float
    high: float
    proven: bool
    distance: int


@dataclass(frozen=True)
class CellRatios:
    """A cell with what was measured there; `entries` are by variant id, the default's among them.

    Ratios within `floor` of each other are a tie.
    """

    workload: Workload
    weight: float
    default: str
    floor: float
    entries: Mapping[str, Entry]


@dataclass(frozen=True)
class Kept:
    """The variants to ship, by id, and the choice for each cell (in the order of the fields).

    `losses` are the choice's time over that of the cell's own best; 1 loses nothing. `mean_loss` is
    their weighted geometric mean.
    """

    variants: tuple[str, ...]
    choices: tuple[str, ...]
    losses: tuple[float, ...]
    mean_loss: float


def pick(field: CellRatios, kept: Iterable[str]) -> str | None:
    """Which of the kept variants serves a cell; None when all are surely slower than its default.

    The fastest of those that are proven to beat the default; else the default, if it is kept; else
    the fastest. Of ties, the one that differs least from the default.
    """
    entries = {
        v: field.entries[v]
        for v in kept
        if v in field.entries and (v == field.default or field.entries[v].low <= 1)
    }
    proven = {v: entry for v, entry in entries.items() if entry.proven}
    if not proven and field.default in entries:
        return field.default
    pool = proven or entries
    if not pool:
        return None
    limit = min(entry.ratio for entry in pool.values()) * (1 + field.floor)
    ties = [v for v, entry in pool.items() if entry.ratio <= limit]
    return min(ties, key=lambda v: (pool[v].distance, pool[v].ratio))


def best(field: CellRatios) -> str:
    """What a session for this cell alone would ship."""
    found = pick(field, field.entries)
    assert found is not None  # the default is never slower than itself
    return found


def loss(field: CellRatios, variant: str) -> float:
    """A variant's time over that of the cell's best; 1 where it is no slower."""
    return max(1.0, field.entries[variant].ratio / field.entries[best(field)].ratio)


def keep(fields: Sequence[CellRatios], packs: Mapping[str, str], most: int) -> Kept:
    """The at most `most` variants of one packed form that lose least, by the weighted mean logarithm.

    Losses within a cell's floor count as none. Every set that is considered serves each cell with
    something that is not surely slower than its default; where that takes more than `most`
    variants, as few more are kept. All sets are tried: there are some hundred.
    """
    for size in range(min(most, len(packs)), len(packs) + 1):
        sets = list(_sets(packs, size))
        rated = [(_rating(fields, kept), kept) for kept in sets if _serves_all(fields, kept)]
        if rated:
            return _result(fields, min(rated)[1])
    raise AssertionError("the defaults serve all cells")


def _sets(packs: Mapping[str, str], most: int) -> Iterator[tuple[str, ...]]:
    """All sets of up to `most` variants that share a packed form."""
    for pack in sorted(set(packs.values())):
        members = sorted(v for v, of in packs.items() if of == pack)
        for size in range(1, min(most, len(members)) + 1):
            yield from itertools.combinations(members, size)


def _serves_all(fields: Sequence[CellRatios], kept: Collection[str]) -> bool:
    return all(pick(field, kept) is not None for field in fields)


def _rating(fields: Sequence[CellRatios], kept: Collection[str]) -> tuple[int, int, int, int]:
    """What is less is better: the loss in steps of WORTH, the cells that leave their default without proof, the
    size, the distance from the defaults."""
    total, distance, unproven = 0.0, 0, 0
    for field in fields:
        choice = pick(field, kept)
        assert choice is not None
        lost = loss(field, choice)
        total += field.weight * (math.log(lost) if lost > 1 + field.floor else 0.0)
        distance += field.entries[choice].distance
        unproven += choice != field.default and not field.entries[choice].proven
    mean = total / sum(field.weight for field in fields)
    return round(mean / WORTH), unproven, len(kept), distance


def _result(fields: Sequence[CellRatios], kept: Sequence[str]) -> Kept:
    choices = [pick(field, kept) or field.default for field in fields]
    losses = [loss(field, choice) for field, choice in zip(fields, choices, strict=True)]
    weights = [field.weight for field in fields]
    logs = [w * math.log(lost) for w, lost in zip(weights, losses, strict=True)]
    return Kept(
        variants=tuple(v for v in kept if v in choices),
        choices=tuple(choices),
        losses=tuple(losses),
        mean_loss=math.exp(sum(logs) / sum(weights)),
    )


@dataclass(frozen=True)
class Rule:
    """Up to `tokens` tokens (None: any more) of this load run this variant."""

    load: str
    tokens: int | None
    variant: str


def selector(choices: Mapping[Workload, str]) -> tuple[Rule, ...]:
    """The cells' choices as thresholds, load by load.

    A workload that was not tuned runs the choice of the nearest token count, in octaves: so
    ``tuner.select.select`` has it, and so a threshold is the geometric mean of its neighbours.
    """
    rules: list[Rule] = []
    for load in dict.fromkeys(workload.load for workload in choices):
        counts = sorted(w.tokens for w in choices if w.load == load)
        chosen = [choices[Workload(count, load)] for count in counts]
        for i, variant in enumerate(chosen):
            if i + 1 == len(chosen):
                rules.append(Rule(load, None, variant))
            elif chosen[i + 1] != variant:
                rules.append(Rule(load, math.isqrt(counts[i] * counts[i + 1]), variant))
    return tuple(rules)
