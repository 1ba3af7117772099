"""Faults of a whole session, made for real: see tests/replayed.py for what is real there.

docs/faults.md lists every fault with the test that makes it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.recorded import FAULT
from tests.replayed import TRIALS, install, killed, real_worker, rows, session
from tuner.database import Database
from tuner.plan import TuneResult
from tuner.records import TrialRow


@pytest.fixture
def act(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sessions are replayed, with an empty cache; the file says what else the compiler should do."""
    return install(tmp_path, monkeypatch)


class Quiet(NamedTuple):
    """A session that nothing disturbed."""

    result: TuneResult
    rows: list[TrialRow]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quiet]:
    folder = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOETUNE_CACHE", str(folder / "cache"))
        install(folder, patch)
        result = session(folder / "db.sqlite3")
        yield Quiet(result, rows(folder / "db.sqlite3"))


def story(found: list[TrialRow]) -> list[tuple[str, str]]:
    return [(row.variant, row.status) for row in found]


def in_write(number: int) -> None:
    """Kills this process in its database write of this number, between two statements."""
    record, written = Database.record_measurement, Counter[str]()

    def last(self: Database, *arguments: Any) -> int:
        written["rows"] += 1
        if written["rows"] == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return record(self, *arguments)

    Database.record_measurement = last  # type: ignore[method-assign]


# Where the tuner is killed -> how many trials it stored before that.
KILLS = {
    "compile": 5,
    "verify": 7,
    "benchmark": 8,
    "write": 7,
    "finals": TRIALS,
}


def arrange(stage: str, act: Path, database: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """What the process that is killed does."""
    if stage == "compile":  # the seventh build, in the second batch
        act.write_text('echo x >> "$0.builds"; [ $(wc -l < "$0.builds") -ge 7 ] && kill -9 $PPID\n')
    elif stage == "verify":  # the first one is the default's
        patch.setenv(FAULT, "verify:8")
    elif stage == "benchmark":
        patch.setenv(FAULT, "race:9")
    elif stage == "finals":
        patch.setenv(FAULT, "final:1")

    patch.setattr("tuner.tune.Worker", real_worker)

    def body() -> None:
        if stage == "write":
            in_write(8)
        session(database)

    return body


@pytest.mark.parametrize("stage", KILLS)
def test_a_tuner_that_is_killed_goes_on_and_ends_alike(
    stage: str, act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    with monkeypatch.context() as patch:
        code = killed(arrange(stage, act, database, patch))
    act.write_text("")
    before = rows(database)
    assert code == -signal.SIGKILL
    assert story(before) == story(quiet.rows)[: KILLS[stage]]
    result, after = session(database), rows(database)
    assert [row.id for row in after[: len(before)]] == [row.id for row in before]
    assert story(after) == story(quiet.rows)
    assert len({row.variant_id for row in after}) == len(after) == TRIALS
    assert result.cells == quiet.result.cells
    assert (result.kept, result.rules) == (quiet.result.kept, quiet.result.rules)
