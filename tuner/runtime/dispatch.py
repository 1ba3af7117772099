"""Dispatch: which selection serves which token counts, as a table that is made once.

The ladder of selection costs some 50 us a question, so a layer asks it beforehand. What it answers is
constant between some thresholds; they are found by asking for the powers of two and for the token
counts that the answers name, and by halving every interval whose ends differ.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tuner.runtime.catalogue import Catalogue
from tuner.select.selection import Selection

# The table's last bucket serves this many tokens and any more.
MOST_TOKENS = 1 << 24


@dataclass(frozen=True)
class Bucket:
    """Token counts from `first` up to the next bucket's, and what was selected for `first`."""

    first: int
    selection: Selection


class Dispatch:
    """The table of one layer, and the packed form that all its variants read."""

    def __init__(self, catalogue: Catalogue, load: str) -> None:
        self._catalogue, self._load = catalogue, load
        self.pack = catalogue.select(1, load, None).pack
        self.buckets = buckets(self.select)
        self.firsts = [bucket.first for bucket in self.buckets]

    def select(self, tokens: int) -> Selection:
        """What the catalogue answers now."""
        return self._catalogue.select(tokens, self._load, self.pack)

    def bucket(self, tokens: int) -> int:
        """The number of the bucket of a token count; that of 1 for 0."""
        return bisect_right(self.firsts, max(tokens, 1)) - 1

    def replace(self, bucket: int, selection: Selection) -> None:
        """Let another selection serve a bucket from now on."""
        made = list(self.buckets)
        made[bucket] = Bucket(made[bucket].first, selection)
        self.buckets = tuple(made)

    def selection(self, tokens: int) -> Selection:
        """Which variant serves this number of tokens, and why: in the words for this very count, unless
        the catalogue would choose another one by now."""
        serves = self.buckets[self.bucket(tokens)].selection
        now = self.select(tokens)
        same = (now.template, now.variant, now.target) == (
            serves.template,
            serves.variant,
            serves.target,
        )
        return now if same else serves


def buckets(select: Callable[[int], Selection], most: int = MOST_TOKENS) -> tuple[Bucket, ...]:
    """The table for 1 .. `most` tokens, by rising `first`; the first bucket starts at 1.

    It is exact where each answer serves an interval, which may have one gap at a token count that
    the answers name: so it is with nearest neighbours. Two questions for each threshold and octave.
    """
    asked: dict[int, Selection] = {}

    def ask(tokens: int) -> Selection:
        if tokens not in asked:
            asked[tokens] = select(tokens)
        return asked[tokens]

    wanted = {1 << octave for octave in range(most.bit_length())}
    while wanted:
        for tokens in wanted:
            ask(tokens)
        counts = sorted(asked)
        for low, high in itertools.pairwise(counts):
            _halve(ask, low, high)
        named = {int(s.evidence.get("tokens", 0)) for s in asked.values()}
        near = {t + step for t in named for step in (-1, 0, 1)}
        wanted = {t for t in near if 1 <= t <= most and t not in asked}
    return _merged(asked)


def _halve(ask: Callable[[int], Selection], low: int, high: int) -> None:
    """Asks until neighbours that differ are one token apart."""
    same = _answer(ask(low)) == _answer(ask(high))
    if same or high - low < 2:
        return
    middle = (low + high) // 2
    _halve(ask, low, middle)
    _halve(ask, middle, high)


def _answer(selection: Selection) -> tuple[Any, ...]:
    """What makes two selections the same answer: the distance and the reason name the token count."""
    evidence = selection.evidence.get("trial_id"), selection.evidence.get("tokens")
    return selection.template, selection.variant, selection.target, selection.match, *evidence


def _merged(asked: dict[int, Selection]) -> tuple[Bucket, ...]:
    found: list[Bucket] = []
    for tokens in sorted(asked):
        if not found or _answer(found[-1].selection) != _answer(asked[tokens]):
            found.append(Bucket(tokens, asked[tokens]))
    return tuple(found)
