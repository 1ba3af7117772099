"""Schedule: which cell of a session gets the next trial.

Stride scheduling (Waldspurger and Weihl 1995, MIT/LCS/TM-528): every cell has tickets, a trial moves
its clock on by 1 / tickets, and the cell whose clock is furthest back is next. Tickets are

    weight x (gain + spread + LEAST_GAIN)

where gain is what the cell's best ratio fell by in its last GAIN_TRIALS trials, as a logarithm,
and spread is half the interval of that ratio: a cell that still improves, or doesn't know how fast
its best is, is asked more often; one that stands still gets its turn by weight. Advantages
are not paid back, and none starves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# A gain is measured over this many trials: about the batch in which a search gets its bearings.
GAIN_TRIALS = 8
# What a cell is thought to gain at least.
LEAST_GAIN = 0.02


@dataclass
class Share:
    """One cell's claim on the session: its weight, and how its best ratio came down trial by trial."""

    weight: float = 1.0
    clock: float = 0.0
    bests: list[float] = field(default_factory=list)
    spread: float = 0.0

    def note(self, best_ratio: float, spread: float) -> None:
        """What the cell's best is after one more trial: its ratio to the default, and half the ratio's
        interval, relative."""
        self.bests.append(best_ratio)
        self.spread = spread

    @property
    def gain(self) -> float:
        """The logarithm by which the best ratio fell in the last trials; the default's is 1."""
        if not self.bests:
            return 0.0
        before = self.bests[-1 - GAIN_TRIALS] if len(self.bests) > GAIN_TRIALS else 1.0
        return max(0.0, math.log(before / self.bests[-1]))

    @property
    def tickets(self) -> float:
        return self.weight * (self.gain + self.spread + LEAST_GAIN)

    def take(self) -> None:
        """One trial is given to the cell."""
        self.clock += 1 / self.tickets


def order(shares: Sequence[Share]) -> list[int]:
    """The cells by whose turn it is; of equals the earlier one."""
    return sorted(range(len(shares)), key=lambda i: (shares[i].clock, i))


def deal(shares: Sequence[Share], count: int, give: Callable[[int], bool]) -> int:
    """Deals `count` trials; `give(cell)` says whether the cell had one to try. Returns how many were dealt.

    A cell that has none left is passed over from then on.
    """
    dry: set[int] = set()
    dealt = 0
    while dealt < count and len(dry) < len(shares):
        cell = next(i for i in order(shares) if i not in dry)
        if give(cell):
            shares[cell].take()
            dealt += 1
        else:
            dry.add(cell)
    return dealt
