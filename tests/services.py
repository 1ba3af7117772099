"""A service for tests: an application in this process, on a database with rows of this repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.rows import TARGET
from tuner.serve import asked
from tuner.serve.app import create
from tuner.serve.settings import Settings
from tuner.store.database import Database
from tuner.store.jsonl import import_best

# Lines of `moetune export` for one CPU; not db/best.jsonl, which grows.
BEST = Path(__file__).with_name("winners.jsonl")
GRANITE = "granite-3.0-1b-a400m"
ZEN4 = "znver4"


def client(path: Path, **limits: Any) -> TestClient:
    """A client of a new application; a fault of the service is an answer, not an exception."""
    return TestClient(create(Settings(path, **limits)), raise_server_exceptions=False)


@pytest.fixture
def served(database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database with the winners of BEST, on a machine of another architecture than theirs.

    On one of the same, ZEN4 would mean that machine, with its cores and caches.
    """
    monkeypatch.setattr(asked, "_host", lambda: TARGET)
    with Database(database) as db:
        import_best(db, BEST)
    return database
