"""Posting results: who may, what is taken, and that what was acknowledged is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests import lines
from tests.services import client
from tuner.serve.tokens import BUNDLES, RESULTS, Tokens, path_beside
from tuner.store.database import Database

JSON_LINES = {"content-type": "application/x-ndjson"}


@pytest.fixture
def empty(database: Path) -> Path:
    Database(database).close()
    return database


def token(db: Path, *scopes: str) -> dict[str, str]:
    made = Tokens(path_beside(db)).create("-".join(scopes), scopes)
    return {"authorization": f"Bearer {made}"}


def winners(asked: TestClient) -> int:
    return int(asked.get("/healthz").json()["winners"])


def test_results_are_taken_once(empty: Path) -> None:
    asked, may = client(empty), token(empty, RESULTS)
    body = lines.text(*lines.stored())
    first = asked.post("/v1/results", content=body, headers=JSON_LINES | may)
    assert first.status_code == 200
    assert {name: first.json()[name] for name in ("taken", "same", "kept")} == {
        "taken": 12, "same": 0, "kept": 0,
    }  # fmt: skip
    again = asked.post("/v1/results", content=body, headers=JSON_LINES | may).json()
    assert (again["taken"], again["same"], len(again["lines"])) == (0, 12, 12)
    worse = asked.post(
        "/v1/results", content=lines.text(lines.faster(0.5)), headers=JSON_LINES | may
    )
    assert worse.json()["kept"] == 1
    assert 'moetune_results_total{outcome="taken"} 12.0' in asked.get("/metrics").text


def test_who_asks_sees_what_was_posted_at_once(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    asked, may, row = client(empty), token(empty, RESULTS), lines.won()
    query = {
        "model": row["problem"]["name"],
        "tokens": row["tokens"],
        "target": json.dumps(row["target"]["key"]),
    }
    assert asked.get("/v1/best", params=query).json()["match"] == "default"
    asked.post("/v1/results", content=lines.text(row), headers=JSON_LINES | may)
    first = asked.get("/v1/best", params=query).json()
    assert first["match"] == "exact"
    asked.post("/v1/results", content=lines.text(lines.faster(2.0)), headers=JSON_LINES | may)
    second = asked.get("/v1/best", params=query).json()
    assert second["evidence"]["median_ns"] == first["evidence"]["median_ns"] / 2


def test_without_a_token_nothing_is_written(empty: Path) -> None:
    asked, body = client(empty), lines.text(lines.won())
    gone = token(empty, RESULTS)
    Tokens(path_beside(empty)).revoke(RESULTS)
    for headers in (
        {},
        {"authorization": "Bearer moetune_x"},
        {"authorization": "Basic eDp5"},
        gone,
    ):
        answer = asked.post("/v1/results", content=body, headers=JSON_LINES | headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    answer = asked.post("/v1/results", content=body, headers=JSON_LINES | token(empty, BUNDLES))
    assert answer.status_code == 403
    assert "lacks the scope results" in answer.json()["detail"]
    assert winners(asked) == 0


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"\n", JSON_LINES, 422, "body: is empty"),
        (b"{}", JSON_LINES, 422, "body: line 1: line: lacks default"),
        (b"\xff\xfe", JSON_LINES, 422, "body: line 1: "),
        (b"[" * 50_000, JSON_LINES, 422, "body: line 1: "),
        (b"{}", {"content-type": "application/json"}, 415, "send application/x-ndjson"),
        (b"x" * 70_000, JSON_LINES, 413, "larger than 65536 bytes"),
    ],
    ids=["empty", "lacking", "bytes", "deep", "type", "large"],
)
def test_bad_bodies_are_refused(
    empty: Path, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    asked = client(empty, most_body_bytes=65536)
    answer = asked.post("/v1/results", content=body, headers=headers | token(empty, RESULTS))
    assert (answer.status_code, winners(asked)) == (status, 0)
    assert said in answer.json()["detail"]


def test_writing_has_a_rate_of_its_own(empty: Path) -> None:
    asked = client(empty, writes_per_s=1.0)
    answers = [
        asked.post("/v1/results", content=b"", headers=JSON_LINES).status_code for _ in range(3)
    ]
    assert answers == [401, 401, 429]
    assert asked.get("/healthz").status_code == 200


def test_a_read_only_database_takes_nothing(empty: Path) -> None:
    asked = client(empty, writable=False)
    answer = asked.post("/v1/results", content=b"", headers=JSON_LINES | token(empty, RESULTS))
    assert (answer.status_code, "read-only" in answer.json()["detail"]) == (403, True)


def test_posts_at_one_time_are_all_kept(empty: Path) -> None:
    asked, may = client(empty, writes_per_s=1000.0), token(empty, RESULTS)
    answers: list[Any] = []

    def post(row: dict[str, Any]) -> Callable[[], None]:
        return lambda: answers.append(
            asked.post("/v1/results", content=lines.text(row), headers=JSON_LINES | may).json()
        )

    threads = [threading.Thread(target=post(row)) for row in lines.stored()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer["taken"] for answer in answers] == [1] * 12
    assert winners(asked) == 12
