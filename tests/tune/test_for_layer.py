"""The program that runs a layer's session: what it refuses, in a line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rows import PROBLEM, TARGET, add_winner
from tuner.problem import footprint
from tuner.store.database import Database
from tuner.tune import for_layer


def asked(db: Path, **more: Any) -> str:
    given = {
        "problem": PROBLEM.key, "name": "small", "target": TARGET.key, "db": str(db),
        "tokens": [1, 16], "load": "uniform", "time_s": 20.0,
    }  # fmt: skip
    return json.dumps(given | more)


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler and a linker seem to be there."""
    monkeypatch.setattr(for_layer, "toolchain_version", lambda: "Mojo of the test")
    monkeypatch.setattr(for_layer, "require_linker", lambda: Path("cc"))


@pytest.mark.usefixtures("toolchain")
def test_the_session_is_the_one_that_is_asked_for(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(for_layer, "tune", lambda *given: ran.append(given))
    assert for_layer.main(asked(database)) == 0
    ((problem, target, db, plan, _),) = ran
    assert (problem, problem.name, target, db.path) == (PROBLEM, "small", TARGET, database)
    assert (plan.tokens, plan.loads, plan.time_s, plan.trials) == (
        (1, 16),
        ("uniform",),
        20.0,
        None,
    )


@pytest.mark.usefixtures("toolchain")
def test_memory_that_is_lacking(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(footprint, "available_bytes", lambda: 0)
    assert for_layer.main(asked(database)) == 1
    assert "of memory for copies of the weights, 0.0 GiB are free" in capsys.readouterr().err
    assert not database.exists()


@pytest.mark.usefixtures("toolchain")
def test_a_database_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert for_layer.main(asked(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line


def test_no_linker(
    database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(for_layer, "toolchain_version", lambda: "Mojo of the test")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert for_layer.main(asked(database)) == 1
    assert capsys.readouterr().err.startswith("no C linker: ")


@pytest.mark.usefixtures("toolchain")
@pytest.mark.parametrize("waited", [True, False])
def test_what_another_process_tuned_meanwhile_is_not_tuned_again(
    waited: bool, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that did not wait is asked for counts that nothing serves, whatever the rows say."""
    with Database(database) as db:
        add_winner(db, 16)

    @contextlib.contextmanager
    def turn(path: Path, wait: Callable[[], None]) -> Iterator[None]:
        if waited:
            wait()
        yield

    ran: list[Any] = []
    monkeypatch.setattr(for_layer, "turn", turn)
    monkeypatch.setattr(for_layer, "tune", lambda *given: ran.append(given[3].tokens))
    assert for_layer.main(asked(database)) == 0
    assert for_layer.main(asked(database, tokens=[16])) == 0
    assert ran == ([(1,)] if waited else [(1, 16), (16,)])
