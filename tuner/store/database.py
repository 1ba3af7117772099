"""The tuning database: every trial as it ends, and the winners. SQLite through sqlite-utils.

One process writes, others read at the same time (write-ahead log). One Database may be used from
several threads. Reading back for people and for git is in ``tuner.store.jsonl``.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlite_utils

from tuner.errors import DatabaseError
from tuner.host.arguments import require_path
from tuner.host.paths import data_dir
from tuner.problem import Problem
from tuner.store import flat, migrations, peer_times, sqlite, statements
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import (
    CeilingRow,
    MeasurementRow,
    SessionRow,
    TrialRow,
    WinnerRow,
    now,
)
from tuner.store.sqlite import ELSEWHERE
from tuner.target import Target

# Columns that hold JSON; `data` of targets and problems is named after its table in `best`.
_JSON = ("problem", "target", "config", "environment", "samples")
# Steps of SQLite's machine between two looks at the clock: some 0.1 ms.
_STEPS_BETWEEN = 10_000
_TRIAL_COLUMNS = [
    field.name
    for field in fields(TrialRow)
    if field.name not in ("id", "template", "variant", "config", "pack", "measurements")
]


def default_path() -> Path:
    """The database that is meant when none is named: ``MOETUNE_DB``, else the user's own."""
    named = os.environ.get("MOETUNE_DB")
    return Path(named) if named else data_dir() / "tuning.sqlite3"


def path_to_read(db: Database | str | os.PathLike[str] | None = None) -> Path:
    """The path of a database that is only read: one that is named is there, the default may not be yet.

    Raises DatabaseError where the one that is named is not there: it would answer like an empty one.
    """
    if db is None:
        return default_path()
    if isinstance(db, Database):
        return db.path
    require_path("db", db)
    sqlite.require_file(Path(db))
    return Path(db)


class Database:
    """An open tuning database.

    Opened for writing (the default), it is created or brought to this version's schema. Opened
    with ``read_only``, nothing is written; a file in a folder that cannot be written works too,
    as long as nobody else writes to it.

    Raises:
        DatabaseError: the file cannot be opened, is none of ours, is damaged, is from a newer
            moetune, or (``read_only``) from an older one or not there.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, read_only: bool = False) -> None:
        require_path("path", path, type(None))
        self.path = Path(path) if path is not None else default_path()
        self.read_only = read_only
        self._lock = threading.RLock()
        with self._explained():
            self._connection = sqlite.connect(self.path, read_only)
        try:
            with self._explained():
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the object is of no use afterwards."""
        self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside happen together or not at all; nested ones join the outer one."""
        with self._lock, self._explained():
            if self._connection.in_transaction:
                yield
                return
            # IMMEDIATE: a transaction that reads first and writes later would not wait for a
            # writer in another process but fail at once.
            try:  # before it begins: left open, it would be joined by the next, and never committed
                self._connection.execute("BEGIN IMMEDIATE")
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def add_target(self, target: Target) -> str:
        """Store a target unless it is there; return its id, the digest."""
        row = {"id": target.digest, "arch": target.arch, "name": target.name}
        return self._add("targets", row | {"data": _dump(target.key)})

    def add_problem(self, problem: Problem) -> str:
        """Store a problem unless it is there; return its id, the digest."""
        row = {"id": problem.digest, "name": problem.name, "data": _dump(problem.key)}
        return self._add("problems", row)

    def add_variant(
        self, id: str, template: str, name: str, config: Mapping[str, Any], pack: str
    ) -> str:
        """Store a variant unless it is there; return its id, which the caller gives."""
        row = {"id": id, "template": template, "name": name, "config": _dump(dict(config))}
        return self._add("variants", row | {"pack": pack})

    def label(self, table: str, id: str) -> str:
        """The label of a row of ``problems`` or ``targets``; empty where it has none or is not there."""
        rows = self._query(f"SELECT name FROM {table} WHERE id = ?", [id])
        return str(rows[0]["name"]) if rows else ""

    def record_trial(self, trial: TrialRow, measurement: MeasurementRow | None = None) -> int:
        """Store a trial and its measurement together; return the trial's id."""
        row = {name: getattr(trial, name) for name in _TRIAL_COLUMNS}
        row |= {"environment": _dump(trial.environment), "created": trial.created or now()}
        with self.transaction():
            trial_id = self._insert("trials", row)
            if measurement is not None:
                self.record_measurement(trial_id, measurement)
        return trial_id

    def refute(self, trial_id: int, message: str) -> None:
        """A trial that was ok is wrong after all; it stops being a winner, whoever made it one."""
        with self.transaction():
            self._db.execute("DELETE FROM winners WHERE trial_id = ?", [trial_id])
            sql = "UPDATE trials SET status = 'wrong', message = ? WHERE id = ?"
            self._db.execute(sql, [message, trial_id])

    def record_measurement(self, trial_id: int, measurement: MeasurementRow) -> int:
        """Store one more measurement of a trial; return its id."""
        row = {**vars(measurement), "samples": _dump(measurement.samples), "trial_id": trial_id}
        row["created"] = measurement.created or now()
        with self.transaction():
            return self._insert("measurements", row)

    def record_winner(self, winner: WinnerRow) -> int:
        """Store a winner in place of the former one; return its id.

        Raises:
            DatabaseError: its trial is not there, is of another workload, or was not ok.
        """
        row = {**vars(winner), "created": winner.created or now()}
        with self.transaction():
            self._check_winner(winner)
            return self._insert("winners", row, "OR REPLACE")

    def record_session(self, session: SessionRow) -> None:
        """Store what a session ended with."""
        row = {**vars(session), "data": _dump(session.data), "created": session.created or now()}
        with self.transaction():
            self._insert("sessions", row)

    def sessions(self, problem_id: str, target_id: str) -> list[SessionRow]:
        """The sessions of one problem and target that went to their end, oldest first."""
        sql = "SELECT * FROM sessions WHERE problem_id = ? AND target_id = ? ORDER BY rowid"
        rows = self._query(sql, [problem_id, target_id])
        return [SessionRow(**{**row, "data": json.loads(row["data"])}) for row in rows]

    def set_ceiling(self, target_id: str, name: str, value: float, unit: str) -> None:
        """Store a measured limit of a target in place of the former value."""
        row = {"target_id": target_id, "name": name, "value": value, "unit": unit}
        with self.transaction():
            self._insert("ceilings", row | {"created": now()}, "OR REPLACE")

    def ceilings(self, target_id: str) -> dict[str, CeilingRow]:
        """The measured limits of a target, by name."""
        sql = "SELECT name, value, unit, created FROM ceilings WHERE target_id = ? ORDER BY name"
        return {row["name"]: CeilingRow(**row) for row in self._query(sql, [target_id])}

    def record_peer_times(self, rows: Iterable[PeerTimeRow]) -> None:
        """Store what peers took, all rows or none; their problems and targets have to be there."""
        with self.transaction():
            for row in rows:
                self._insert(peer_times.TABLE, peer_times.stored(row))

    def peer_times(self, problem_id: str, target_id: str | None = None) -> list[PeerTimeRow]:
        """What peers took at a problem, oldest first; on one target, or on all."""
        wanted = {"problem_id": problem_id, "target_id": target_id}
        return [peer_times.read(row) for row in self._query(peer_times.READ, wanted)]

    def trials(self, problem_id: str, target_id: str, tokens: int, load: str) -> list[TrialRow]:
        """Every trial of one workload, oldest first, with its variant and measurements."""
        where = "problem_id = ? AND target_id = ? AND tokens = ? AND load = ?"
        return self._trials(where, [problem_id, target_id, tokens, load])

    def trial_rows(
        self,
        problem: Problem | None = None,
        target: Target | None = None,
        tokens: int | None = None,
        load: str | None = None,
        status: str | None = None,
    ) -> list[dict[str, Any]]:
        """Trials as flat rows, oldest first: those that match what is given, or all.

        Values are plain, so ``pandas.DataFrame(db.trial_rows())`` is a table. Times are of the finals where the
        trial was in them; parameters are ``config.NAME``, circumstances ``environment.NAME``.
        """
        ids = {"problem": problem and problem.digest, "target": target and target.digest}
        wanted = {**ids, "tokens": tokens, "load": load, "status": status}
        return flat.trial_rows(self, {k: v for k, v in wanted.items() if v is not None})

    def workloads(self) -> list[dict[str, Any]]:
        """Every workload of every problem and target that has trials, with how many (`trials`)."""
        return self._query(statements.READ_WORKLOADS, [])

    def stage_times(self, target_id: str | None = None) -> list[dict[str, Any]]:
        """What the stages of earlier trials took, oldest first; of one target, or of all CPUs.

        Keys: problem_id, problem (its key), session, tokens, compile_ms, verify_ms, benchmark_ms.
        """
        cpus = "json_extract(targets.data, '$.kind') = 'cpu'"
        where = cpus if target_id is None else "target_id = ?"
        sql = f"{statements.READ_STAGE_TIMES} WHERE {where} ORDER BY trials.id"
        return self._query(sql, [] if target_id is None else [target_id])

    def trial(self, trial_id: int) -> TrialRow:
        """One trial. Raises DatabaseError where there is none."""
        for row in self._trials("trials.id = ?", [trial_id]):
            return row
        raise DatabaseError(f"{self.path}: has no trial {trial_id}; record it first")

    def best(
        self,
        problem_id: str | None = None,
        target_id: str | None = None,
        tokens: int | None = None,
        load: str | None = None,
    ) -> list[dict[str, Any]]:
        """Rows of the view ``best`` (JSON columns parsed), in a fixed order."""
        wanted = {"problem_id": problem_id, "target_id": target_id, "tokens": tokens, "load": load}
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = :{name}" for name in given) or "1"
        order = "problem_name, problem_id, arch, target_id, load, tokens"
        rows = self._query(f"SELECT * FROM best WHERE {where} ORDER BY {order}", given)
        return [row | {"is_default": bool(row["is_default"])} for row in rows]

    def stored_best(self, problem_id: str) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """The columns of the view ``best``, and its rows of one problem as they are stored (JSON as text), by
        target, load and tokens."""
        sql = "SELECT * FROM best WHERE problem_id = ? ORDER BY target_id, load, tokens"
        with self._lock, self._explained():
            cursor = self._connection.execute(sql, [problem_id])
            return tuple(name for name, *_ in cursor.description), cursor.fetchall()

    def query(self, sql: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a reading statement of ``tuner.store.listings``, JSON columns parsed."""
        return self._query(sql, parameters)

    def stop_when(self, late: Callable[[], bool]) -> None:
        """End statements with a DatabaseError once ``late``, asked now and then as they run, is true."""
        self._connection.set_progress_handler(late, _STEPS_BETWEEN)

    def data_version(self) -> tuple[int, int]:
        """A value that differs from an earlier one if anybody wrote in between."""
        with self._explained():
            theirs = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return int(theirs), self._connection.total_changes

    def _prepare(self) -> None:
        """Refuse what is not ours, then bring the schema up to date."""
        connection, newest = self._connection, migrations.MIGRATIONS[-1].number
        connection.execute("PRAGMA foreign_keys = ON")
        self._check_schema(newest)
        if not self.read_only:
            sqlite.use_log(connection)
            with self.transaction():
                self._check_schema(newest)
                migrations.migrate(connection)
        self._db = sqlite_utils.Database(connection, execute_plugins=False)

    def _check_schema(self, newest: int) -> None:
        found = migrations.version(self._connection)
        if migrations.is_foreign(self._connection):
            raise DatabaseError(f"{self.path}: belongs to another program; name another with --db")
        if found > newest:
            raise DatabaseError(
                f"{self.path}: was written by a newer moetune (schema {found}, this one knows "
                f"{newest}); upgrade moetune {ELSEWHERE}"
            )
        if self.read_only and found < newest:
            raise DatabaseError(
                f"{self.path}: has the older schema {found}, this moetune reads {newest}; "
                f"any command that writes mends it, `moetune import --db FILE` for one, {ELSEWHERE}"
            )

    def _add(self, table: str, row: dict[str, Any]) -> str:
        """Insert unless the id is there; of labels the last that is not empty stays."""
        with self.transaction():
            self._insert(table, row, "OR IGNORE")
            sql = f"UPDATE {table} SET name = :name WHERE id = :id AND :name NOT IN ('', name)"
            self._db.execute(sql, {"id": row["id"], "name": row["name"]})
        return str(row["id"])

    def _insert(self, table: str, row: Mapping[str, Any], conflict: str = "") -> int:
        names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
        sql = f"INSERT {conflict} INTO {table} ({names}) VALUES ({places})"
        return int(self._db.execute(sql, dict(row)).lastrowid or 0)

    def _query(self, sql: str, parameters: list[Any] | dict[str, Any]) -> list[dict[str, Any]]:
        with self._lock, self._explained():
            return [_parsed(row) for row in self._db.query(sql, parameters)]

    def _trials(self, where: str, parameters: list[Any]) -> list[TrialRow]:
        sql = f"{statements.READ_TRIALS} WHERE {where}"
        rows = self._query(f"{sql} ORDER BY trials.id", parameters)
        ids = f"SELECT trials.id FROM trials WHERE {where}"
        taken: dict[int, list[MeasurementRow]] = {row["id"]: [] for row in rows}
        measured = f"SELECT * FROM measurements WHERE trial_id IN ({ids}) ORDER BY id"
        for found in self._query(measured, parameters):
            values = {name: found[name] for name in found if name not in ("id", "trial_id")}
            values["samples"] = tuple(values["samples"])
            taken.setdefault(found["trial_id"], []).append(MeasurementRow(**values))
        return [TrialRow(**row, measurements=tuple(taken[row["id"]])) for row in rows]

    def _check_winner(self, winner: WinnerRow) -> None:
        trial = self.trial(winner.trial_id)
        if trial.status != "ok":
            raise DatabaseError(
                f"trial {trial.id}: has status {trial.status} and can never be a winner; "
                "record one of status ok"
            )
        for name in ("target_id", "problem_id", "tokens", "load"):
            has, must = getattr(winner, name), getattr(trial, name)
            if has != must:
                raise DatabaseError(
                    f"winner: {name}={has!r}, but its trial {trial.id} has {must!r}; "
                    "give the trial's"
                )

    def _explained(self) -> contextlib.AbstractContextManager[None]:
        return sqlite.explained(self.path)


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parsed(row: dict[str, Any]) -> dict[str, Any]:
    for name in _JSON:
        if name in row:
            row[name] = json.loads(row[name])
    return row
