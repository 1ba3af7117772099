"""The selection table of a bundle says at every token count what the database says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import PROBLEM, TARGET, add_winner
from tuner.bundle.manifest import TableRule
from tuner.bundle.table import Choice, choose
from tuner.select.select import best_config
from tuner.space.variant import default_variant
from tuner.store.database import Database


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def chosen(db: Database, choice: Choice, load: str, tokens: int) -> str:
    rules = choice.tables[load].rules
    return next(r.variant for r in rules if r.up_to_tokens is None or tokens <= r.up_to_tokens)


def test_thresholds_lie_between_the_winners(db: Database) -> None:
    for tokens, variant in ((1, "k_a1"), (16, "k_a1"), (128, "k_a2"), (1024, "k_a2")):
        add_winner(db, tokens, variant=variant)
    choice = choose(PROBLEM, TARGET, db.path)
    assert choice.tuned
    assert choice.tables["uniform"].rules[:2] == (TableRule(45, "k_a1"), TableRule(8192, "k_a2"))


def test_the_table_is_the_ladder(db: Database) -> None:
    for tokens, variant in ((1, "k_a1"), (64, "k_a2"), (512, "k_a3")):
        add_winner(db, tokens, variant=variant)
    add_winner(db, 64, "zipf:1.2", variant="k_a4")
    choice = choose(PROBLEM, TARGET, db.path)
    assert sorted(choice.tables) == ["uniform", "zipf:1.2"]
    for load in choice.tables:
        pack = choice.tables[load].pack
        for tokens in (*range(1, 600), 4096, 4097, 10_000):
            asked = best_config(PROBLEM, tokens, load, TARGET, db.path, pack)
            assert chosen(db, choice, load, tokens) == asked.variant, (load, tokens)


def test_evidence_is_of_what_is_kept(db: Database) -> None:
    add_winner(db, 1, variant="k_a1")
    add_winner(db, 64, variant="k_a2")
    (first, second) = choose(PROBLEM, TARGET, db.path).evidence
    assert (first.tokens, first.variant, second.tokens, second.variant) == (1, "k_a1", 64, "k_a2")
    assert first.row["median_ns"] == 900.25


def test_winners_of_another_architecture_are_not_taken(db: Database) -> None:
    """Its own default is: code for an older one would leave the target's instructions unused."""
    add_winner(db, 1, variant="k_a1")
    newer = dataclasses.replace(TARGET, arch="znver4")
    choice = choose(PROBLEM, newer, db.path)
    assert (choice.tuned, choice.evidence) == (False, ())
    assert default_variant(PROBLEM, newer).name in choice.selections


def test_no_database(tmp_path: Path) -> None:
    assert not choose(PROBLEM, TARGET, tmp_path / "none.sqlite3").tuned
