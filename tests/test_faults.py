"""Faults of a whole session, made for real: see tests/replayed.py for what is real there.

docs/faults.md lists every fault with the test that makes it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.formula import PROBLEM, TARGET
from tests.recorded import FAULT
from tests.replayed import (
    PLAN,
    TRIALS,
    InsideSpinning,
    install,
    killed,
    real_worker,
    rows,
    session,
)
from tests.test_process import gone
from tuner.cli import outcome
from tuner.database import Database
from tuner.plan import TuneResult
from tuner.records import TrialRow
from tuner.worker import Worker, WorkerTimeout


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


def test_a_measuring_process_ends_with_its_tuner(tmp_path: Path) -> None:
    """Though its kernel never comes back."""

    def body() -> None:
        worker = Worker(PROBLEM, TARGET, 0, "tests.recorded:Sleeper")
        number = worker.ask("number", timeout_s=30)
        (tmp_path / "number").write_text(str(number))
        with contextlib.suppress(WorkerTimeout):
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
            worker.ask("sleep", timeout_s=30)

    assert killed(body) == -signal.SIGKILL
    number = int((tmp_path / "number").read_text())
    end = time.monotonic() + 10
    while not gone(number) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(number)


def test_a_clock_that_jumps_changes_nothing(
    act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    """Hours forward and back at every look: neither the budget of ten minutes nor any order follows."""
    jumps = itertools.cycle([0.0, 7200.0, -86400.0, 30.0])
    start = time.time()

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.fromtimestamp(start + next(jumps), tz)

    monkeypatch.setattr(time, "time", lambda: start + next(jumps))
    monkeypatch.setattr("tuner.records.datetime", Jumping)
    result = session(database, dataclasses.replace(PLAN, time_s=600.0))
    found = rows(database)
    assert len({row.created for row in found}) > 2
    assert story(found) == story(quiet.rows)
    assert result.cells == quiet.result.cells
    second = session(database)
    with Database(database) as db:
        sessions = db.sessions(PROBLEM.digest, TARGET.digest)
    assert [row.id for row in sessions] == [result.session, second.session]


@pytest.fixture
def load() -> Iterator[Callable[[], None]]:
    """Starts a process that is busy on every core, until the test ends."""
    busy: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        for _ in os.sched_getaffinity(0):
            busy.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        time.sleep(0.2)

    yield start
    for process in busy:
        process.kill()
        process.wait()


def test_on_a_loaded_machine_a_session_says_that_it_cannot_tell(
    act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[], None]
) -> None:
    """Loops are timed for real, beside a busy process on every core."""
    monkeypatch.setattr("tuner.tune.Worker", InsideSpinning)
    load()
    result = session(database, dataclasses.replace(PLAN, trials=5))
    (cell,) = result.cells
    assert cell.loaded
    assert cell.foreign > 0.2
    told = [line for line in outcome.lines(result) if "could not tell" in line]
    assert len(told) == 1
    assert told[0].startswith("could not tell at 24 tokens, uniform: the machine was loaded")
    with Database(database) as db:
        (best,) = db.best(PROBLEM.digest)
        (stored,) = db.sessions(PROBLEM.digest, TARGET.digest)
    assert best["foreign_share"] == pytest.approx(cell.foreign, abs=1e-4)
    assert stored.data["cells"][0]["foreign"] == cell.foreign
