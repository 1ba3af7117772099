"""Stats: what a layer did, counted at each call at the cost of some list entries."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.runtime.dispatch import MOST_TOKENS, Bucket

# The routing of one call in so many is looked at, of those with at least so many tokens: with fewer,
# the busiest expert always has a large share.
SAMPLED = 64
LEAST_TOKENS = 32
# Shares that are remembered, the latest.
REMEMBERED = 1024
QUANTILES = {"least": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


@dataclass(frozen=True)
class BucketStats:
    """Calls with `first` to `last` tokens (None: any more), the variant that runs them and how it matched."""

    first: int
    last: int | None
    variant: str
    match: str
    calls: int


@dataclass(frozen=True)
class Stats:
    """What a layer did since it was made.

    Attributes:
        calls: with at least one token.
        tokens: calls by token count: 4 stands for 4 to 7.
        sampled: calls whose routing was looked at, one in 64 of those with at least 32 tokens.
        busiest: of those, quantiles of the share of tokens that chose the busiest expert: k / E when
            the load is even, 1 when all went to one; empty before the first.
        buckets: which variant serves which token counts.
        fallbacks: calls by how their variant matched, without the exact ones.
        load_ms, pack_ms: what making the layer took, and the packing alone, which is part of it.
        packed_bytes: of the packed weights; `shared`: another layer had packed them before.
    """

    calls: int
    tokens: dict[int, int]
    sampled: int
    busiest: dict[str, float]
    buckets: tuple[BucketStats, ...]
    fallbacks: dict[str, int]
    load_ms: float
    pack_ms: float
    packed_bytes: int
    shared: bool

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self)


class Counters:
    """Counts calls; not safe from several threads, so whoever counts holds the region."""

    def __init__(self, buckets: int) -> None:
        self._by_bucket = [0] * buckets
        self._by_octave = [0] * (MOST_TOKENS.bit_length() + 40)
        self._large = 0
        self._shares: deque[float] = deque(maxlen=REMEMBERED)
        self._sampled = 0
        self._fixed: dict[tuple[int, int], list[int]] = {}

    def fixed(self, bucket: int, tokens: int) -> list[int]:
        """A list of one number, to which its owner adds his calls, all with as many tokens (below
        LEAST_TOKENS)."""
        return self._fixed.setdefault((bucket, tokens), [0])

    def count(self, bucket: int, tokens: int) -> bool:
        """Counts a call; says whether its routing is to be looked at."""
        self._by_bucket[bucket] += 1
        self._by_octave[tokens.bit_length()] += 1
        if tokens < LEAST_TOKENS:
            return False
        self._large += 1
        return self._large % SAMPLED == 1

    def sample(self, tokens: int, counts: npt.NDArray[np.int64]) -> None:
        """Remembers how skewed a call was, from its pairs by expert [E]."""
        self._sampled += 1
        self._shares.append(int(counts.max()) / tokens)

    def tell(self, buckets: Sequence[Bucket], **made: Any) -> Stats:
        """Everything counted so far; `made` are the fields about making the layer."""
        by_bucket, by_octave = self._by_bucket.copy(), self._by_octave.copy()
        for (bucket, tokens), (calls,) in self._fixed.items():
            by_bucket[bucket] += calls
            by_octave[tokens.bit_length()] += calls
        ends = [bucket.first - 1 for bucket in buckets[1:]]
        rows = tuple(
            BucketStats(b.first, last, b.selection.variant, b.selection.match, calls)
            for b, last, calls in zip(buckets, [*ends, None], by_bucket, strict=True)
        )
        fallbacks: Counter[str] = Counter()
        for row in rows:
            if row.match != "exact" and row.calls:
                fallbacks[row.match] += row.calls
        busiest = {}
        if self._shares:
            values = np.quantile(list(self._shares), list(QUANTILES.values()))
            busiest = dict(zip(QUANTILES, map(float, values), strict=True))
        return Stats(
            calls=sum(by_bucket),
            tokens={1 << (i - 1): n for i, n in enumerate(by_octave) if n},
            sampled=self._sampled,
            busiest=busiest,
            buckets=rows,
            fallbacks=dict(fallbacks),
            **made,
        )
