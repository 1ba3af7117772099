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
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.formula import PROBLEM, TARGET
from tests.host.test_process import gone
from tests.mounts import NO_MOUNTS, alone, mount
from tests.recorded import FAULT
from tests.replayed import (
    PLAN,
    TRIALS,
    InsideSpinning,
    ended,
    install,
    real_worker,
    rows,
    session,
)
from tuner.cli import answer
from tuner.errors import CompileError, DatabaseError
from tuner.host.lock import WAITING, turn
from tuner.measure.worker import Worker, WorkerTimeout
from tuner.space.variant import parse, source_name
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.store.sqlite import BUSY_TIMEOUT_S
from tuner.tune import run
from tuner.tune.plan import Progress
from tuner.tune.result import TuneResult


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
    "compile": 7,
    "verify": 7,
    "benchmark": 8,
    "write": 7,
    "finals": TRIALS,
}


def arrange(stage: str, act: Path, database: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """What the process that is killed does."""
    if stage == "compile":  # the third run for several variants, which begins the second batch
        count = 'echo x >> "$0.builds"; [ $(wc -l < "$0.builds") -ge 3 ] && kill -9 $PPID'
        act.write_text(f'case "$1" in *.s) {count};; esac\n')
    elif stage == "verify":  # the first one is the default's
        patch.setenv(FAULT, "verify:8")
    elif stage == "benchmark":
        patch.setenv(FAULT, "race:9")
    elif stage == "finals":
        patch.setenv(FAULT, "final:1")

    patch.setattr("tuner.tune.run.Worker", real_worker)

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
        codes = ended(arrange(stage, act, database, patch))
    act.write_text("")
    before = rows(database)
    assert codes == [-signal.SIGKILL]
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

    assert ended(body) == [-signal.SIGKILL]
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
    monkeypatch.setattr("tuner.store.records.datetime", Jumping)
    result = session(database, dataclasses.replace(PLAN, time_s=600.0))
    found = rows(database)
    assert len({row.created for row in found}) > 1
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


@pytest.mark.timed  # its load would disturb others
def test_on_a_loaded_machine_a_session_says_that_it_cannot_tell(
    act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[[], None]
) -> None:
    """Loops are timed for real, beside a busy process on every core."""
    monkeypatch.setattr("tuner.tune.run.Worker", InsideSpinning)
    load()
    result = session(database, dataclasses.replace(PLAN, trials=5))
    (cell,) = result.cells
    assert cell.loaded
    assert cell.foreign > 0.2
    told = [line for line in answer.sentences(result.cells, 60.0) if "other processes took" in line]
    assert len(told) == 1
    assert told[0].startswith("24 tokens: other processes took")
    with Database(database) as db:
        (best,) = db.best(PROBLEM.digest)
        (stored,) = db.sessions(PROBLEM.digest, TARGET.digest)
    assert best["foreign_share"] == pytest.approx(cell.foreign, abs=1e-4)
    assert stored.data["cells"][0]["foreign"] == cell.foreign


def with_mounts(body: Callable[[], None]) -> None:
    """Runs a part of a test in a process that has file systems of its own."""

    def there() -> None:
        alone()
        body()

    (code,) = ended(there)
    if code == NO_MOUNTS:
        pytest.skip("this system does not let a process have mounts of its own")
    assert code == 0


def test_a_database_on_a_full_disk_keeps_what_it_has(
    act: Path, tmp_path: Path, quiet: Quiet
) -> None:
    folder = tmp_path / "small"

    def body() -> None:
        mount(folder, "256k")
        with pytest.raises(DatabaseError, match=r"the disk is full; make room"):
            session(folder / "db.sqlite3")
        before = rows(folder / "db.sqlite3")
        assert 0 < len(before) < TRIALS
        mount(folder, "16m", again=True)
        result = session(folder / "db.sqlite3")
        after = rows(folder / "db.sqlite3")
        assert [row.id for row in after[: len(before)]] == [row.id for row in before]
        assert (story(after), result.cells) == (story(quiet.rows), quiet.result.cells)

    with_mounts(body)


def test_a_full_cache_ends_a_session_that_goes_on_when_there_is_room(
    act: Path, cache: Path, database: Path, quiet: Quiet
) -> None:
    def body() -> None:
        mount(cache, "1m")
        with pytest.raises(CompileError, match=r"cache folder \S+ is full; delete it or free some"):
            session(database)
        before = rows(database)
        assert 0 < len(before) < TRIALS
        assert story(before) == story(quiet.rows)[: len(before)]
        mount(cache, "64m", again=True)
        result = session(database)
        assert (story(rows(database)), result.cells) == (story(quiet.rows), quiet.result.cells)

    with_mounts(body)


def test_a_read_only_cache_serves_what_it_holds(
    act: Path, cache: Path, database: Path, tmp_path: Path, quiet: Quiet
) -> None:
    def body() -> None:
        mount(cache, "64m")
        session(tmp_path / "first.sqlite3", dataclasses.replace(PLAN, trials=7))
        mount(cache, "64m", again=True, read_only=True)
        session(tmp_path / "second.sqlite3", dataclasses.replace(PLAN, trials=7))
        refused = r"cache folder \S+ cannot be written \(Read-only file system\); mend its perm"
        with pytest.raises(CompileError, match=refused):
            session(database)
        assert story(rows(database)) == story(quiet.rows)[:7]
        mount(cache, "64m", again=True)
        assert session(database).cells == quiet.result.cells

    with_mounts(body)


def test_binaries_that_were_cut_or_altered_are_built_again(
    act: Path, cache: Path, database: Path, quiet: Quiet
) -> None:
    session(database, dataclasses.replace(PLAN, trials=5))
    libraries = sorted(cache.rglob("kernel.so"))
    for number, library in enumerate(libraries):
        text = library.read_text()
        library.write_text(text[: len(text) // 2] if number % 2 else text.replace("a", "b"))
    database.unlink()
    assert session(database).cells == quiet.result.cells
    assert story(rows(database)) == story(quiet.rows)
    assert len(libraries) >= 4


# What a compiler does with one source -> status and message of its trial.
COMPILERS = {
    "hangs": ("sleep 60", "timeout", "mojo build: timed out after 0.5 s; raise the time limit"),
    "prints garbage": (
        r"printf '\377\000error\n\033[2J'; printf '\377\n' >&2; exit 3",
        "compile",
        "mojo build: ended with 3, without an error line",
    ),
    "writes garbage": (r"""printf '\377\000' > "$1"; exit 0""", "crash", "does not load"),
    "is killed": (
        "kill -9 $$",
        "compile",
        "mojo build: ended by SIGKILL from outside; free memory and disk space, then try again",
    ),
    "is killed once": (
        """echo x >> "$0.killed"; [ $(wc -l < "$0.killed") = 1 ] && kill -9 $$""",
        "ok",
        "",
    ),
}


@pytest.mark.parametrize("what", COMPILERS)
def test_a_compiler_that_fails_is_a_row_and_the_session_goes_on(
    what: str, act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    script, status, message = COMPILERS[what]
    monkeypatch.setattr("tuner.measure.trial.COMPILE_S", 0.5)
    chosen = next(row.variant for row in quiet.rows[1:] if row.status == "ok")
    named = source_name(parse(chosen))
    act.write_text(f'case "$(sed -n 3p "$2")" in *{named}) {script};; esac\n')
    session(database)
    found = {row.variant: row for row in rows(database)}
    assert found[chosen].status == status
    assert message in found[chosen].message
    others = {row.status for row in found.values() if row.variant != chosen}
    assert others <= {"ok", "slow", "wrong"}
    assert len(found) == TRIALS


LINKER = "echo 'collect2: fatal error: cannot find ld' >&2; exit 1"
REFUSED = "echo 'kernel.mojo:1:1: error: no' >&2; exit 1"


@pytest.mark.parametrize(
    ("script", "then"),
    [("sleep 60", "ok"), ("kill -9 $$", "ok"), (LINKER, "ok"), (REFUSED, "compile")],
)
def test_a_build_that_failed_for_no_reason_of_the_source_is_tried_again(
    script: str, then: str, act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    monkeypatch.setattr("tuner.measure.trial.COMPILE_S", 0.5)
    chosen = next(row.variant for row in quiet.rows[1:] if row.status == "ok")
    act.write_text(f'case "$(sed -n 3p "$2")" in *{source_name(parse(chosen))}) {script};; esac\n')
    session(database)
    act.write_text("")
    session(database)
    of_chosen = [(row.status, row.passing) for row in rows(database) if row.variant == chosen]
    failed = ("timeout" if "sleep" in script else "compile", then == "ok")
    assert of_chosen == [failed, *([("ok", False)] if then == "ok" else [])]


@pytest.mark.parametrize("what", ["sleep 60", "exit 3", "kill -9 $$"])
def test_a_compiler_that_fails_on_several_variants_builds_each_alone(
    what: str, act: Path, database: Path, monkeypatch: pytest.MonkeyPatch, quiet: Quiet
) -> None:
    monkeypatch.setattr("tuner.measure.trial.COMPILE_S", 0.5)
    act.write_text(f'case "$1" in *.s) {what};; esac\n')
    session(database)
    assert story(rows(database)) == story(quiet.rows)


def test_two_tuners_on_one_database_take_turns(act: Path, database: Path, quiet: Quiet) -> None:
    """The same command at the same time: every variant is tried once, and both end alike."""
    assert ended(*[lambda: session(database)] * 2) == [0, 0]
    assert story(rows(database)) == story(quiet.rows)
    with Database(database) as db:
        first, second = db.sessions(PROBLEM.digest, TARGET.digest)
    assert first.data["kept"] == second.data["kept"] == list(quiet.result.kept)


def test_a_tuner_that_waits_says_so(act: Path, database: Path) -> None:
    reports: list[Progress] = []
    with Database(database) as db, ThreadPoolExecutor(1) as pool:
        with turn(database, lambda: None):
            waiting = pool.submit(run.tune, PROBLEM, TARGET, db, PLAN, reports.append)
            end = time.monotonic() + 10
            while not reports and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(0.2)
            assert [(report.stage, report.trials) for report in reports] == [(WAITING, 0)]
        assert waiting.result().kept


def hold(database: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process that has locked the database by the time this returns."""
    code = (
        "import sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "print('locked', flush=True); time.sleep(float(sys.argv[2])); db.execute('COMMIT')"
    )
    command = [sys.executable, "-c", code, str(database), str(seconds)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    return holder


@pytest.mark.parametrize(
    ("held_s", "wait_s"),
    [(0.6, 5.0), pytest.param(31.0, BUSY_TIMEOUT_S, marks=pytest.mark.slow)],
)
def test_a_session_waits_for_a_database_that_is_locked(
    held_s: float, wait_s: float, act: Path, database: Path, monkeypatch: pytest.MonkeyPatch,
    quiet: Quiet,
) -> None:  # fmt: skip
    monkeypatch.setattr("tuner.store.sqlite.BUSY_TIMEOUT_S", wait_s)
    with Database(database):
        pass
    start = time.monotonic()
    with hold(database, held_s):
        assert session(database).cells == quiet.result.cells
    assert time.monotonic() - start >= held_s
    assert story(rows(database)) == story(quiet.rows)
