"""The dispatch table says what the ladder says, for every token count."""

from __future__ import annotations

import random
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pytest

from tests.rows import COMPILER, PROBLEM, TARGET, add_winner
from tests.select.test_select import LESS_CACHE, OLDER, fallback
from tuner.runtime.dispatch import Bucket, buckets
from tuner.select.select import best_config
from tuner.select.selection import Selection
from tuner.store.database import Database

MOST = 1 << 10


def select(tokens: int) -> Selection:
    request: dict[str, Any] = {"target": TARGET, "default": fallback, "compiler": COMPILER}
    return best_config(PROBLEM, tokens, **request)


def shape(table: tuple[Bucket, ...]) -> list[tuple[int, str, str]]:
    return [(b.first, b.selection.match, b.selection.variant) for b in table]


def test_an_empty_database_is_one_bucket(database: Path) -> None:
    assert shape(buckets(select)) == [(1, "default", "k_default")]


def test_winners_reach_to_their_neighbours_and_three_octaves(database: Path) -> None:
    with Database(database) as db:
        for tokens in (100, 200):
            add_winner(db, tokens, variant=f"k_a{tokens}")
    assert shape(buckets(select)) == [
        (1, "default", "k_default"),
        (13, "tokens", "k_a100"),
        (100, "exact", "k_a100"),
        (101, "tokens", "k_a100"),
        (142, "tokens", "k_a200"),
        (200, "exact", "k_a200"),
        (201, "tokens", "k_a200"),
        (1601, "default", "k_default"),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_table_agrees_with_the_ladder(database: Path, seed: int) -> None:
    rng = random.Random(seed)
    with Database(database) as db:
        for number in range(rng.randrange(1, 9)):
            target = rng.choice([TARGET, TARGET, LESS_CACHE, OLDER])
            load = rng.choice(["uniform", "uniform", "onehot"])
            tokens = round(2 ** rng.uniform(0, 10))
            add_winner(db, tokens, load, target=target, variant=f"k_a{number}")
    asked: list[int] = []

    def counted(tokens: int) -> Selection:
        asked.append(tokens)
        return select(tokens)

    table = buckets(counted, MOST)
    assert len(asked) == len(set(asked)) < 1000
    firsts = [bucket.first for bucket in table]
    for tokens in range(1, MOST + 1):
        found, right = table[bisect_right(firsts, tokens) - 1].selection, select(tokens)
        assert (found.variant, found.match, found.target) == (
            right.variant,
            right.match,
            right.target,
        ), tokens
