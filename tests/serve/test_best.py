"""``/v1/best``: the same bytes as the local call, on every way to an answer, and after every write."""

from __future__ import annotations

import dataclasses
import json
import random
import sqlite3
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rows import PROBLEM, TARGET, add_winner, winner_of
from tests.services import GRANITE, ZEN4, client, served
from tuner.errors import MoetuneError
from tuner.problem import PRESETS, Problem
from tuner.select.select import best_config
from tuner.serve import index
from tuner.serve.index import Index
from tuner.serve.store import Store
from tuner.store import listings, shipped
from tuner.store.database import Database
from tuner.target import Target, detect

__all__ = ["served"]
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def stored_target(path: Path) -> Target:
    with Database(path, read_only=True) as db:
        (row,) = listings.targets(db, "", 10)
    return Target.from_key({**row["target"], "name": row["name"]})


def questions(zen4: Target) -> Iterator[tuple[dict[str, Any], Target]]:
    """Questions that end on every rung, and refused ones; with the target that each means."""
    rng = random.Random(7)
    others = {
        "more cores": dataclasses.replace(zen4, cores=64),
        "other caches": dataclasses.replace(zen4, l3_bytes=1 << 20, cores=3),
        "newer": dataclasses.replace(zen4, arch="znver5"),
        "older": dataclasses.replace(zen4, arch="znver3", features=("avx2", "fma", "sse2")),
    }
    for _ in range(250):
        key = rng.choice([None, *others.values()])
        target, text = (zen4, ZEN4) if key is None else (key, encode(key.key))
        asked: dict[str, Any] = {
            "model": rng.choice([GRANITE, "classic-moe", "qwen3-30b-a3b"]),
            "tokens": rng.choice([0, 1, rng.randrange(1, 300), rng.randrange(1, 1 << 20)]),
            "target": text,
        }
        more = {
            "load": rng.choice(["uniform", "zipf:1.2", "zipf:1.20", "onehot", "zipf:0.3333333"]),
            "dtype": rng.choice(["float32", "bfloat16"]),
            "pack": rng.choice(["v16_p2_o0", "v16_p2_o1", "v16_p9_o0"]),
            "compiler": rng.choice(["Mojo 1.2.0 (2016d0cd)", "Mojo \u2603", ""]),
        }
        yield asked | {name: more[name] for name in more if rng.random() < 0.4}, target


def local(asked: dict[str, Any], target: Target, db: Path) -> tuple[int, Any, str]:
    """The status and the body that a service must answer with, and how it matched."""
    problem = PRESETS[asked["model"]]
    problem = problem.replace(dtype=asked.get("dtype", problem.dtype))
    more = {name: asked[name] for name in ("pack", "compiler") if name in asked}
    try:
        found = best_config(
            problem, asked["tokens"], asked.get("load", "uniform"), target, db, **more
        )
    except MoetuneError as error:
        return 422, str(error), "refused"
    return 200, encode(found.to_json()).encode(), found.match


def told(answer: Any) -> tuple[int, Any]:
    said = answer.content if answer.status_code == 200 else answer.json()["detail"]
    return answer.status_code, said


def test_answers_are_those_of_the_local_call_byte_for_byte(served: Path) -> None:
    service, matches = client(served), set()
    for asked, target in questions(stored_target(served)):
        status, body, match = local(asked, target, served)
        query = urllib.parse.urlencode(asked)
        answers = [
            service.get(f"/v1/best?{query}"),
            service.get(f"/v1/best?{query}"),  # kept
            service.get(f"/v1/best?tokens=7&{query}"),  # the last one counts; not the quick way
        ]
        assert [told(answer) for answer in answers] == [(status, body)] * 3
        assert answers[0].headers == answers[2].headers
        matches.add(match)
    assert matches == {"exact", "tokens", "load", "arch", "older", "default", "refused"}


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def test_every_write_is_seen(db: Database) -> None:
    service = client(db.path)
    query = {"model": encode(PROBLEM.key), "tokens": 128, "target": encode(TARGET.key)}

    def ask() -> tuple[str, str, float | None]:
        told = service.get("/v1/best", params=query).json()
        return told["match"], told["variant"], told["evidence"].get("median_ns")

    assert ask()[0] == "default"
    first = add_winner(db, 64)
    assert ask() == ("tokens", "k_a8", 900.25)
    second = add_winner(db, 128, variant="k_a16")
    assert ask() == ("exact", "k_a16", 900.25)
    db.record_winner(winner_of(second, median_ns=800.0))
    assert ask() == ("exact", "k_a16", 800.0)
    db.refute(second.id, "y is off")
    assert ask() == ("tokens", "k_a8", 900.25)
    by_hand = sqlite3.connect(db.path)
    with by_hand:
        by_hand.execute("UPDATE winners SET median_ns = 1.5")
    assert ask() == ("tokens", "k_a8", 1.5)
    db.refute(first.id, "y is off")
    assert ask()[0] == "default"


def test_a_label_that_became_anothers_is_seen(db: Database) -> None:
    add_winner(db, 128)
    service = client(db.path)

    def ask(model: str) -> int:
        return service.get(f"/v1/best?model={model}&tokens=128&target=znver3").status_code

    assert (ask("small"), ask("large")) == (200, 404)
    db.add_problem(PROBLEM.replace(hidden=128, name="large"))
    assert (ask("small"), ask("large")) == (200, 200)
    db.add_problem(PROBLEM.replace(hidden=256, name="small"))
    assert (ask("small"), ask("large")) == (422, 200)


def test_only_what_changed_is_looked_into_again(db: Database) -> None:
    other = PROBLEM.replace(hidden=128)
    add_winner(db, 128)
    add_winner(db, 128, problem=other)
    store = Store(db.path, 20.0)
    kept = Index(store)
    kept.warm()
    before = [kept.groups(store.version(), problem) for problem in (PROBLEM, other)]
    add_winner(db, 256, problem=other)
    after = [kept.groups(store.version(), problem) for problem in (PROBLEM, other)]
    assert after[0] is before[0]
    assert [group.tokens for group in after[1]] == [(128, 256)]


def test_rows_that_nobody_asks_for_are_forgotten(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "MOST_ROWS", 3)
    problems = [PROBLEM.replace(hidden=64 * number) for number in range(1, 6)]
    for problem in problems:
        add_winner(db, 64, problem=problem)
        add_winner(db, 128, problem=problem)
    store = Store(db.path, 20.0)
    kept = Index(store)
    kept.warm()
    for problem in (*problems, *problems):
        (group,) = kept.groups(store.version(), problem)
        assert group.tokens == (64, 128)
        assert kept.rows <= 3


def test_rows_that_cannot_be_read_are_not_counted(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise ArithmeticError

    add_winner(db, 128)
    store = Store(db.path, 20.0)
    kept = Index(store)
    monkeypatch.setattr(index, "grouped", damaged)
    for _ in range(2):
        with pytest.raises(ArithmeticError):
            kept.groups(store.version(), PROBLEM)
    assert kept.rows == 0


def test_a_database_that_was_replaced_is_asked_anew(db: Database, tmp_path: Path) -> None:
    add_winner(db, 128)
    service = client(db.path)
    query = {"model": PROBLEM.digest, "tokens": 128, "target": encode(TARGET.key)}
    assert service.get("/v1/best", params=query).json()["match"] == "exact"
    db.close()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{db.path}{suffix}").rename(tmp_path / f"moved{suffix}")
    Database(db.path).close()
    assert service.get("/v1/best", params=query).status_code == 404
    asked = query | {"model": encode(PROBLEM.key), "target": "host"}
    answer = service.get("/v1/best", params=asked).json()
    assert (answer["match"], answer["arch"]) == ("default", detect().arch)


def test_what_ships_serves_where_the_database_is_empty(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Database(database).close()
    row = next(row for row in shipped.winners() if row["target"]["kind"] == "cpu")
    target = Target.from_key({**row["target"], "name": row["target_name"]})
    asked = {
        "model": encode(row["problem"]), "tokens": row["tokens"], "target": encode(target.key),
        "compiler": row["environment"]["toolchain"],
    }  # fmt: skip
    problem = Problem.from_key(row["problem"])
    expected = best_config(
        problem, row["tokens"], target=target, db=database, compiler=asked["compiler"]
    )
    with client(database) as http:
        answer = http.get("/v1/best", params=asked).json()
    assert answer == expected.to_json()
    assert (answer["source"], answer["match"]) == ("shipped", "exact")
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    with client(database) as http:
        assert http.get("/v1/best", params=asked).json()["source"] == "default"
