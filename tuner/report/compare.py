"""Compare: the winners of two sides, workload by workload, decided by their intervals alone.

The two times were measured apart, so the ratio's interval takes both at their ends: it holds what each median
may be, and nothing of what changed between the days.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tuner.report.sides import Standing


class ComparedVerdict(StrEnum):
    """How the second side stands beside the first."""

    FASTER = "faster"
    SLOWER = "slower"
    UNDECIDED = "not decided"
    SAME = "same measurement"
    UNLIKE = "not comparable"
    ONLY_A = "only in A"
    ONLY_B = "only in B"


@dataclass(frozen=True)
class Compared:
    """One workload.

    Attributes:
        speed, speed_low, speed_high: B's speed over A's, with its interval; above 1, B is faster. None where
            there are not two times that can be compared.
    """

    a: Standing | None
    b: Standing | None
    verdict: ComparedVerdict
    speed: float | None = None
    speed_low: float | None = None
    speed_high: float | None = None

    @property
    def place(self) -> Standing:
        """The side that has the workload."""
        found = self.a or self.b
        assert found is not None
        return found


def compare(a: Sequence[Standing], b: Sequence[Standing]) -> list[Compared]:
    """Each workload of either side, by problem, load and tokens.

    A machine is compared with itself; where the sides know a workload on one machine each, these are compared.
    """
    cells: dict[tuple[str, int, str], tuple[list[Standing], list[Standing]]] = {}
    for number, side in enumerate((a, b)):
        for one in sorted(side, key=lambda s: (s.problem, s.problem_id, s.load, s.tokens)):
            cells.setdefault(one.cell, ([], []))[number].append(one)
    return [made for sides in cells.values() for made in _of_cell(*sides)]


def _of_cell(a: Sequence[Standing], b: Sequence[Standing]) -> Iterator[Compared]:
    if len(a) == len(b) == 1:
        yield _judged(a[0], b[0])
        return
    others = {one.target_id: one for one in b}
    for one in a:
        other = others.pop(one.target_id, None)
        yield _judged(one, other) if other else Compared(one, None, ComparedVerdict.ONLY_A)
    for other in others.values():
        yield Compared(None, other, ComparedVerdict.ONLY_B)


def _judged(a: Standing, b: Standing) -> Compared:
    if a.temperature != b.temperature:
        return Compared(a, b, ComparedVerdict.UNLIKE)
    if (a.created, a.variant, a.median_ns) == (b.created, b.variant, b.median_ns):
        return Compared(a, b, ComparedVerdict.SAME, 1.0, 1.0, 1.0)
    speed, low, high = a.median_ns / b.median_ns, a.low_ns / b.high_ns, a.high_ns / b.low_ns
    verdict = ComparedVerdict.UNDECIDED
    if low > 1:
        verdict = ComparedVerdict.FASTER
    elif high < 1:
        verdict = ComparedVerdict.SLOWER
    return Compared(a, b, verdict, speed, low, high)
