"""The database: what goes in comes out, and every failure names its mend."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.rows import CREATED, PROBLEM, TARGET, add_trial, add_winner, winner_of
from tuner.errors import DatabaseError
from tuner.store import migrations
from tuner.store.database import Database, default_path
from tuner.store.records import STATUSES, CeilingRow, MeasurementRow, SessionRow

ROOT = Path(__file__).parents[2]
NOBODY = 65534

NEWEST = migrations.MIGRATIONS[-1].number


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tuning.sqlite3"


@pytest.fixture
def db(path: Path) -> Iterator[Database]:
    with Database(path) as opened:
        yield opened


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Permission bits stop everybody but root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def locked() -> Iterator[Path]:
    """A database with one winner in a folder where an ordinary user can read alone."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Database(folder / "tuning.sqlite3") as db:
            add_winner(db)
        (folder / "tuning.sqlite3").chmod(0o444)
        folder.chmod(0o555)
        yield folder / "tuning.sqlite3"
        folder.chmod(0o755)


def refusal(path: Path, **how: bool) -> str:
    with pytest.raises(DatabaseError) as caught:
        Database(path, **how)
    return str(caught.value)


def test_trial_comes_back_as_it_went_in(db: Database) -> None:
    trial = add_trial(db, compile_ms=1.5, message="", session="s1", binary_key="b")
    assert db.trials(PROBLEM.digest, TARGET.digest, 128, "uniform") == [trial]
    assert (trial.compile_ms, trial.session, trial.binary_key) == (1.5, "s1", "b")
    assert (trial.template, trial.variant, trial.config, trial.pack) == (
        "k",
        "k_a8",
        {"a": 8},
        "v8_p2_o0",
    )
    assert trial.measurement is not None
    assert trial.measurement.samples == (1000.0, 1001.0)
    assert trial.measurement.sample_count == 2


def test_trials_are_of_one_workload(db: Database) -> None:
    add_trial(db, 128)
    add_trial(db, 64)
    add_trial(db, 128, "onehot")
    assert len(db.trials(PROBLEM.digest, TARGET.digest, 128, "uniform")) == 1


def test_final_measurement_stands_beside_that_of_the_search(db: Database) -> None:
    trial = add_winner(db)
    assert trial.id is not None
    final = MeasurementRow(kind="final", median_ns=5, low_ns=4, high_ns=6, p99_ns=9)
    db.record_measurement(trial.id, final)
    read = db.trial(trial.id)
    assert (read.final, read.measurement) == (final, trial.measurement)
    assert db.best()[0]["p99_ns"] == 9


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
def test_failed_trial_is_a_row_and_never_a_winner(db: Database, status: str) -> None:
    trial = add_trial(db, status=status, message="why")
    assert trial.message == "why"
    with pytest.raises(DatabaseError, match=f"has status {status} and can never be a winner"):
        db.record_winner(winner_of(trial))
    assert db.best() == []


def test_unknown_status_is_refused(db: Database) -> None:
    with pytest.raises(DatabaseError, match="refuses this row"):
        add_trial(db, status="fine")


def test_schema_refuses_wrong_winners_whoever_writes(db: Database, path: Path) -> None:
    good = add_winner(db)
    wrong = add_trial(db, status="wrong")
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="trial of status ok"):
        raw.execute("UPDATE winners SET trial_id = ?", [wrong.id])
    with pytest.raises(sqlite3.IntegrityError, match="trial of status ok"):
        raw.execute("UPDATE trials SET status = 'wrong' WHERE id = ?", [good.id])
    with pytest.raises(sqlite3.IntegrityError, match="trial of status ok"):
        raw.execute(
            "INSERT INTO winners SELECT 9, ?, target_id, problem_id, 7, load, NULL, 1, 1, 1, 0, 1,"
            " NULL, NULL, NULL, '', 1, NULL FROM winners",
            [wrong.id],
        )
    raw.close()


def test_winner_is_of_its_trials_workload(db: Database) -> None:
    trial = add_trial(db, 128)
    with pytest.raises(DatabaseError, match=r"winner: tokens=64, but its trial \d+ has 128"):
        db.record_winner(winner_of(trial, tokens=64))


def test_winner_replaces_the_former(db: Database) -> None:
    add_winner(db, variant="k_a1")
    add_winner(db, variant="k_a2")
    assert [row["variant"] for row in db.best()] == ["k_a2"]


def test_best_has_all_that_a_selection_needs(db: Database) -> None:
    trial = add_trial(db)
    db.record_winner(winner_of(trial, is_default=True, default_trial_id=trial.id, regret=1.25))
    row = db.best(problem_id=PROBLEM.digest, target_id=TARGET.digest)[0]
    assert row["problem"] == PROBLEM.key
    assert row["target"] == TARGET.key
    assert (row["config"], row["pack"], row["arch"]) == ({"a": 8}, "v8_p2_o0", "znver3")
    assert (row["is_default"], row["ratio"], row["median_ns"]) == (True, 0.8, 900.25)
    assert row["regret"] == 1.25
    assert (row["low_ns"], row["created"]) == (990, CREATED)
    assert db.best(problem_id="another") == []


def test_stage_times_are_of_one_target_or_of_all(db: Database) -> None:
    add_trial(db, 4, compile_ms=5.0, verify_ms=2.0, benchmark_ms=9.0, session="s")
    add_trial(db, target=dataclasses.replace(TARGET, cores=8))
    (here,) = db.stage_times(TARGET.digest)
    assert here == {
        "problem_id": PROBLEM.digest, "problem": PROBLEM.key, "session": "s", "tokens": 4,
        "compile_ms": 5.0, "verify_ms": 2.0, "benchmark_ms": 9.0,
    }  # fmt: skip
    assert [row["compile_ms"] for row in db.stage_times()] == [5.0, None]


def test_foreign_keys_are_enforced(db: Database) -> None:
    with pytest.raises(DatabaseError, match="FOREIGN KEY constraint failed"):
        db.record_measurement(99, MeasurementRow(median_ns=1, low_ns=1, high_ns=1))
    with pytest.raises(DatabaseError, match="FOREIGN KEY constraint failed"):
        db.set_ceiling("nowhere", "fma", 1.0, "GFLOP/s")


def test_trial_and_measurement_are_stored_together_or_not_at_all(db: Database) -> None:
    trial = add_trial(db, status="slow")
    bad = MeasurementRow(median_ns=float("inf"), low_ns=1, high_ns=1)
    with pytest.raises(DatabaseError, match="median_ns"):
        db.record_trial(trial, bad)
    assert len(db.trials(PROBLEM.digest, TARGET.digest, 128, "uniform")) == 1


def test_adding_twice_keeps_one_row_and_the_last_label(db: Database) -> None:
    for name in ("", "first", "second", ""):
        assert db.add_problem(PROBLEM.replace(name=name)) == PROBLEM.digest
    add_winner(db, problem=PROBLEM.replace(name=""))
    assert [row["problem_name"] for row in db.best()] == ["second"]


def test_ceiling_replaces_the_former(db: Database) -> None:
    target_id = db.add_target(TARGET)
    for value in (90.0, 100.0):
        db.set_ceiling(target_id, "fma", value, "GFLOP/s")
    created = db.ceilings(target_id)["fma"].created
    ceiling = {"name": "fma", "value": 100.0, "unit": "GFLOP/s", "created": created}
    assert db.ceilings(target_id) == {"fma": CeilingRow(**ceiling)}


def test_data_version_tells_of_own_and_foreign_writes(db: Database, path: Path) -> None:
    seen = [db.data_version(), db.data_version()]
    db.add_target(TARGET)
    seen.append(db.data_version())
    with Database(path) as other:
        other.add_problem(PROBLEM)
    seen.append(db.data_version())
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_another_process_reads_while_this_one_writes(db: Database, path: Path) -> None:
    add_winner(db, 1)
    code = (
        "import sys; from tuner.store.database import Database\n"
        "print(len(Database(sys.argv[1], read_only=True).best()))"
    )
    with db.transaction():
        add_winner(db, 2)
        during = read_in_another_process(code, path)
    assert (during, read_in_another_process(code, path)) == ("1", "2")


def read_in_another_process(code: str, path: Path) -> str:
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.strip()


def test_writer_that_is_killed_loses_only_what_it_had_not_finished(path: Path) -> None:
    code = (
        "import os, signal, sys; from tests.rows import *\n"
        "db = Database(sys.argv[1]); add_trial(db, 1)\n"
        "with db.transaction():\n"
        "    add_trial(db, 2); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -9
    with Database(path) as db:
        add_trial(db, 3)
        found = [len(db.trials(PROBLEM.digest, TARGET.digest, n, "uniform")) for n in (1, 2, 3)]
    assert found == [1, 0, 1]


def test_several_may_create_it_at_once(tmp_path: Path) -> None:
    barrier = threading.Barrier(4)

    def create(path: Path) -> None:
        barrier.wait()
        Database(path).close()

    with ThreadPoolExecutor(4) as pool:
        for n in range(20):
            # Each has a connection of its own, as several processes would.
            assert list(pool.map(create, [tmp_path / f"{n}.sqlite3"] * 4)) == [None] * 4


def test_threads_share_one_database(db: Database) -> None:
    threads = [threading.Thread(target=add_trial, args=(db, n)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [len(db.trials(PROBLEM.digest, TARGET.digest, n, "uniform")) for n in range(1, 9)]
    assert found == [1] * 8


def test_audit_is_evidence_beside_the_final_and_never_in_its_place(db: Database) -> None:
    trial = add_winner(db)
    assert trial.id is not None
    final = MeasurementRow(kind="final", median_ns=5, low_ns=4, high_ns=6, p99_ns=9)
    audit = MeasurementRow(kind="audit", median_ns=7, low_ns=6, high_ns=8, p99_ns=11)
    db.record_measurement(trial.id, audit)
    assert (db.trial(trial.id).final, db.best()[0]["p99_ns"]) == (trial.measurement, None)
    db.record_measurement(trial.id, final)
    db.record_measurement(trial.id, audit)
    read = db.trial(trial.id)
    assert (read.final, read.measurement, read.audits) == (final, trial.measurement, (audit,) * 2)
    assert (db.best()[0]["p99_ns"], len(db.best())) == (9, 1)


def test_trial_with_audits_alone_has_no_measurement_of_its_search(db: Database) -> None:
    trial = add_trial(db, status="slow")
    assert trial.id is not None
    db.record_measurement(trial.id, MeasurementRow(kind="audit", median_ns=7, low_ns=6, high_ns=8))
    read = db.trial(trial.id)
    assert (read.final, read.measurement, len(read.audits)) == (None, None, 1)


def test_measurement_tells_when_it_was_taken(db: Database) -> None:
    trial = add_trial(db)
    assert trial.id is not None
    given = MeasurementRow(kind="audit", median_ns=7, low_ns=6, high_ns=8, created=CREATED)
    db.record_measurement(trial.id, given)
    taken = [row.created for row in db.trial(trial.id).measurements]
    assert taken[0] > CREATED
    assert taken[1] == CREATED


def test_older_schema_is_brought_up_to_date(path: Path) -> None:
    raw = sqlite3.connect(path)
    migrations.migrate(raw, migrations.MIGRATIONS[:1])
    raw.execute("INSERT INTO problems VALUES ('p', 'kept', '{}')")
    raw.commit()
    raw.close()
    assert f"older schema 1, this moetune reads {NEWEST}" in refusal(path, read_only=True)
    with Database(path) as db:
        add_winner(db)
        assert len(db.best()) == 1
    raw = sqlite3.connect(path)
    assert migrations.version(raw) == NEWEST
    assert raw.execute("SELECT name FROM problems WHERE id = 'p'").fetchall() == [("kept",)]
    raw.close()


def test_measurements_of_schema_2_are_kept(path: Path) -> None:
    raw = sqlite3.connect(path)
    migrations.migrate(raw, migrations.MIGRATIONS[:2])
    raw.executescript(f"""
        INSERT INTO problems VALUES ('p', '', '{{}}');
        INSERT INTO targets VALUES ('t', 'znver3', '', '{{}}');
        INSERT INTO variants VALUES ('v', 'k', 'k_a8', '{{"a": 8}}', 'p1');
        INSERT INTO trials VALUES (1, 't', 'p', 'v', 4, 'uniform', 'ok', '', '', '', NULL, NULL,
            NULL, NULL, '{{}}', 's', '{CREATED}');
        INSERT INTO measurements VALUES
            (3, 1, 'trial', 'cold', '[5.0]', 1, 5, 4, 6, 7, 8, 0.9, 0.8, 1.0, 1, 2, 'fma', 0.5),
            (4, 1, 'final', 'warm', '[]', 0, 6, 5, 7, 8, 9, 0.8, 0.7, 0.9, 2, 3, 'read', 0.6);
        INSERT INTO winners VALUES (1, 1, 't', 'p', 4, 'uniform', NULL, 0.8, 0.7, 0.9, 0, 6,
            2, 3, 0.6, '{CREATED}');
    """)
    raw.close()
    with Database(path) as db:
        search, final = db.trial(1).measurements
        (best,) = db.best()
    assert (search.samples, search.p95_ns, search.ratio, search.created) == (
        (5.0,),
        7,
        0.9,
        CREATED,
    )
    assert (final.temperature, final.p99_ns, final.ceiling_fraction, final.created) == (
        "warm", 9, 0.6, "",
    )  # fmt: skip
    assert (best["p99_ns"], best["ceiling"], best["temperature"]) == (9, "read", "warm")


def test_migration_numbers_count_up_from_one() -> None:
    numbers = [step.number for step in migrations.MIGRATIONS]
    assert numbers == list(range(1, len(numbers) + 1))


def test_failed_migration_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Database(path).close()
    before = path.read_bytes()
    bad = migrations.Migration(NEWEST + 1, "bad", ("CREATE TABLE extra (id)", "no sql"))
    steps = (*migrations.MIGRATIONS, bad)
    monkeypatch.setattr(migrations, "MIGRATIONS", steps)
    monkeypatch.setattr(migrations.migrate, "__defaults__", (steps,))
    assert "syntax error" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_newer_schema_is_refused(path: Path, read_only: bool) -> None:
    Database(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    message = refusal(path, read_only=read_only)
    known = f"schema 99, this one knows {NEWEST}"
    assert f"was written by a newer moetune ({known}); upgrade moetune" in message
    assert "--db" in message


def test_database_of_another_program_is_left_alone(path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE theirs (id)")
    raw.close()
    before = path.read_bytes()
    assert "belongs to another program" in refusal(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_random_bytes_are_refused_and_kept(path: Path, read_only: bool) -> None:
    noise = bytes(range(256)) * 64
    path.write_bytes(noise)
    message = refusal(path, read_only=read_only)
    assert message.startswith(f"{path}: is not a database; move it away and import best.jsonl")
    assert path.read_bytes() == noise


@pytest.mark.parametrize("read_only", [False, True])
def test_truncated_file_is_refused(path: Path, read_only: bool) -> None:
    with Database(path) as db:
        add_winner(db)
    path.write_bytes(path.read_bytes()[:20_000])
    message = refusal(path, read_only=read_only)
    assert message.startswith(f"{path}: is damaged; move it away and import best.jsonl")


def test_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path}: is a folder, not a file; name a file in it with --db"
    )


def test_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(tmp_path / "file" / "tuning.sqlite3")
    assert message.startswith(f"{tmp_path / 'file'}: cannot be made (")


def test_missing_file_is_not_created_by_reading(path: Path) -> None:
    assert f"{path}: is not there or out of reach" in refusal(path, read_only=True)
    assert not path.exists()


def test_read_only_refuses_writes(path: Path) -> None:
    Database(path).close()
    with Database(path, read_only=True) as db, pytest.raises(DatabaseError, match="is read-only"):
        db.add_target(TARGET)


def test_read_only_file_is_refused_for_writing_and_can_be_read(locked: Path) -> None:
    with ordinary_user():
        message = refusal(locked)
        with Database(locked, read_only=True) as db:
            assert len(db.best()) == 1
    assert f"{locked}: is read-only; make the file and its folder writable" in message
    assert "MOETUNE_DB" in message


def test_read_only_folder_without_a_database_is_refused(locked: Path) -> None:
    with ordinary_user():
        assert "new.sqlite3: cannot be opened; make the file and its folder accessible" in refusal(
            locked.with_name("new.sqlite3")
        )
        assert "below: cannot be made (Permission denied)" in refusal(
            locked.with_name("below") / "new.sqlite3"
        )


def test_writer_that_holds_on_too_long_is_named(
    db: Database, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tuner.store.sqlite.BUSY_TIMEOUT_S", 0.05)
    with db.transaction():
        assert "is held by another process; end it or wait for it" in refusal(path)


def test_default_path_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETUNE_DB", "/some/where.sqlite3")
    assert default_path() == Path("/some/where.sqlite3")
    monkeypatch.delenv("MOETUNE_DB")
    assert default_path().parts[-2:] == ("moetune", "tuning.sqlite3")


def test_a_session_is_stored_whole(db: Database) -> None:
    row = SessionRow(
        id="s1", target_id=db.add_target(TARGET), problem_id=db.add_problem(PROBLEM),
        data={"kept": ["a"], "pace": {"compiled": 3}}, created=CREATED,
    )  # fmt: skip
    db.record_session(row)
    assert db.sessions(PROBLEM.digest, TARGET.digest) == [row]
    assert db.sessions("other", TARGET.digest) == []


class _Interrupted:
    """A connection on which a signal's exception comes right after a statement."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_transaction)

    def execute(self, sql: str) -> None:
        self._connection.execute(sql)
        if sql.startswith("BEGIN"):
            raise KeyboardInterrupt


def test_an_exception_as_a_transaction_begins_leaves_none_open(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as db:
        plain = db._connection
        db._connection = _Interrupted(plain)  # type: ignore[assignment]
        with pytest.raises(KeyboardInterrupt), db.transaction():
            pass
        db._connection = plain
        assert not plain.in_transaction
