"""The schema of the database as numbered steps; a step that was released is never edited.

The number of the last step applied is in SQLite's ``user_version``; ``application_id`` marks the
file as moetune's, so that nobody's other database is ever altered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tuner.store import former

APPLICATION_ID = 0x6D6F6574  # "moet"


def _nothing(connection: sqlite3.Connection) -> None:
    """What follows most steps."""


class Migration(NamedTuple):
    """One step: its number (1, 2, ...), what it brings, its SQL statements, and what SQL cannot do."""

    number: int
    name: str
    statements: tuple[str, ...]
    then: Callable[[sqlite3.Connection], None] = _nothing


_TABLES = (
    """CREATE TABLE targets (
        id TEXT PRIMARY KEY, arch TEXT NOT NULL, name TEXT NOT NULL,
        data TEXT NOT NULL CHECK (json_valid(data)))""",
    """CREATE TABLE problems (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, data TEXT NOT NULL CHECK (json_valid(data)))""",
    """CREATE TABLE variants (
        id TEXT PRIMARY KEY, template TEXT NOT NULL, name TEXT NOT NULL,
        config TEXT NOT NULL CHECK (json_valid(config)), pack TEXT NOT NULL)""",
    """CREATE TABLE trials (
        id INTEGER PRIMARY KEY,
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        variant_id TEXT NOT NULL REFERENCES variants (id),
        tokens INTEGER NOT NULL CHECK (tokens >= 0),
        load TEXT NOT NULL,
        status TEXT NOT NULL
            CHECK (status IN ('ok', 'invalid', 'compile', 'timeout', 'crash', 'wrong', 'slow')),
        message TEXT NOT NULL, source_digest TEXT NOT NULL, binary_key TEXT NOT NULL,
        render_ms REAL, compile_ms REAL, verify_ms REAL, benchmark_ms REAL,
        environment TEXT NOT NULL CHECK (json_valid(environment)),
        session TEXT NOT NULL, created TEXT NOT NULL)""",
    "CREATE INDEX trials_workload ON trials (problem_id, target_id, tokens)",
    # SQLite has no check for "finite"; 1e18 ns are thirty years.
    """CREATE TABLE measurements (
        id INTEGER PRIMARY KEY,
        trial_id INTEGER NOT NULL REFERENCES trials (id),
        kind TEXT NOT NULL CHECK (kind IN ('trial', 'final')),
        temperature TEXT NOT NULL CHECK (temperature IN ('cold', 'warm')),
        samples TEXT NOT NULL CHECK (json_valid(samples)),
        sample_count INTEGER NOT NULL,
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        low_ns REAL NOT NULL CHECK (low_ns BETWEEN 0 AND 1e18),
        high_ns REAL NOT NULL CHECK (high_ns BETWEEN 0 AND 1e18),
        p95_ns REAL, p99_ns REAL, ratio REAL, ratio_low REAL, ratio_high REAL,
        gflop_s REAL, gb_s REAL,
        ceiling TEXT NOT NULL, ceiling_fraction REAL)""",
    "CREATE INDEX measurements_trial ON measurements (trial_id)",
    """CREATE TABLE ceilings (
        target_id TEXT NOT NULL REFERENCES targets (id),
        name TEXT NOT NULL, value REAL NOT NULL, unit TEXT NOT NULL, created TEXT NOT NULL,
        PRIMARY KEY (target_id, name))""",
    """CREATE TABLE winners (
        id INTEGER PRIMARY KEY,
        trial_id INTEGER NOT NULL REFERENCES trials (id),
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        tokens INTEGER NOT NULL, load TEXT NOT NULL,
        default_trial_id INTEGER REFERENCES trials (id),
        ratio REAL NOT NULL CHECK (ratio BETWEEN 0 AND 1e9),
        ratio_low REAL NOT NULL CHECK (ratio_low BETWEEN 0 AND 1e9),
        ratio_high REAL NOT NULL CHECK (ratio_high BETWEEN 0 AND 1e9),
        is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        gflop_s REAL, gb_s REAL, ceiling_fraction REAL, created TEXT NOT NULL,
        UNIQUE (problem_id, target_id, tokens, load))""",
    "CREATE INDEX winners_trial ON winners (trial_id)",
)

_NOT_OK = """NOT EXISTS (SELECT 1 FROM trials WHERE id = NEW.trial_id AND status = 'ok'
    AND target_id = NEW.target_id AND problem_id = NEW.problem_id
    AND tokens = NEW.tokens AND load = NEW.load)"""
_REFUSE = "SELECT RAISE(ABORT, 'a winner needs a trial of status ok, of its own workload')"

# What was not verified can never be selected, whoever writes to the file.
_BEST = (
    f"CREATE TRIGGER winner_inserted BEFORE INSERT ON winners WHEN {_NOT_OK} BEGIN {_REFUSE}; END",
    f"CREATE TRIGGER winner_updated BEFORE UPDATE ON winners WHEN {_NOT_OK} BEGIN {_REFUSE}; END",
    f"""CREATE TRIGGER winning_trial_updated BEFORE UPDATE OF status ON trials
        WHEN NEW.status <> 'ok' AND EXISTS (SELECT 1 FROM winners WHERE trial_id = NEW.id)
        BEGIN {_REFUSE}; END""",
    """CREATE VIEW best AS SELECT
        winners.problem_id, problems.name AS problem_name, problems.data AS problem,
        winners.target_id, targets.arch, targets.name AS target_name, targets.data AS target,
        winners.tokens, winners.load, trials.variant_id, variants.template,
        variants.name AS variant, variants.config, variants.pack,
        winners.trial_id, winners.default_trial_id, winners.is_default,
        winners.ratio, winners.ratio_low, winners.ratio_high,
        winners.median_ns, winners.gflop_s, winners.gb_s, winners.ceiling_fraction,
        measurements.temperature, measurements.low_ns, measurements.high_ns,
        measurements.p95_ns, measurements.p99_ns, measurements.sample_count, measurements.ceiling,
        trials.status, trials.source_digest, trials.binary_key, trials.environment,
        winners.created
    FROM winners
    JOIN problems ON problems.id = winners.problem_id
    JOIN targets ON targets.id = winners.target_id
    JOIN trials ON trials.id = winners.trial_id AND trials.status = 'ok'
    JOIN variants ON variants.id = trials.variant_id
    LEFT JOIN measurements ON measurements.id = (
        SELECT m.id FROM measurements AS m WHERE m.trial_id = trials.id
        ORDER BY m.kind = 'final' DESC, m.id DESC LIMIT 1)""",
)

_SESSIONS = (
    """CREATE TABLE sessions (
        id TEXT PRIMARY KEY,
        target_id TEXT NOT NULL REFERENCES targets (id),
        problem_id TEXT NOT NULL REFERENCES problems (id),
        data TEXT NOT NULL CHECK (json_valid(data)), created TEXT NOT NULL)""",
    "ALTER TABLE winners ADD COLUMN regret REAL CHECK (regret BETWEEN 1 AND 1e9)",
)

# SQLite cannot alter a CHECK: the table is made anew. The view reads it, so it goes first, and comes
# back without audits: they are evidence about a winner, never the measurement that made it one.
_AUDIT = (
    "DROP VIEW best",
    """CREATE TABLE measurements_4 (
        id INTEGER PRIMARY KEY,
        trial_id INTEGER NOT NULL REFERENCES trials (id),
        kind TEXT NOT NULL CHECK (kind IN ('trial', 'final', 'audit')),
        temperature TEXT NOT NULL CHECK (temperature IN ('cold', 'warm')),
        samples TEXT NOT NULL CHECK (json_valid(samples)),
        sample_count INTEGER NOT NULL,
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        low_ns REAL NOT NULL CHECK (low_ns BETWEEN 0 AND 1e18),
        high_ns REAL NOT NULL CHECK (high_ns BETWEEN 0 AND 1e18),
        p95_ns REAL, p99_ns REAL, ratio REAL, ratio_low REAL, ratio_high REAL,
        gflop_s REAL, gb_s REAL,
        ceiling TEXT NOT NULL, ceiling_fraction REAL,
        created TEXT NOT NULL)""",
    # When an earlier measurement was taken is not known, but for those of a search.
    """INSERT INTO measurements_4 SELECT id, trial_id, kind, temperature, samples, sample_count,
        median_ns, low_ns, high_ns, p95_ns, p99_ns, ratio, ratio_low, ratio_high, gflop_s, gb_s,
        ceiling, ceiling_fraction, CASE kind WHEN 'trial'
            THEN (SELECT created FROM trials WHERE trials.id = trial_id) ELSE '' END
        FROM measurements""",
    "DROP TABLE measurements",
    "ALTER TABLE measurements_4 RENAME TO measurements",
    "CREATE INDEX measurements_trial ON measurements (trial_id)",
    """CREATE VIEW best AS SELECT
        winners.problem_id, problems.name AS problem_name, problems.data AS problem,
        winners.target_id, targets.arch, targets.name AS target_name, targets.data AS target,
        winners.tokens, winners.load, trials.variant_id, variants.template,
        variants.name AS variant, variants.config, variants.pack,
        winners.trial_id, winners.default_trial_id, winners.is_default,
        winners.ratio, winners.ratio_low, winners.ratio_high, winners.regret,
        winners.median_ns, winners.gflop_s, winners.gb_s, winners.ceiling_fraction,
        measurements.temperature, measurements.low_ns, measurements.high_ns,
        measurements.p95_ns, measurements.p99_ns, measurements.sample_count, measurements.ceiling,
        trials.status, trials.source_digest, trials.binary_key, trials.environment,
        winners.created
    FROM winners
    JOIN problems ON problems.id = winners.problem_id
    JOIN targets ON targets.id = winners.target_id
    JOIN trials ON trials.id = winners.trial_id AND trials.status = 'ok'
    JOIN variants ON variants.id = trials.variant_id
    LEFT JOIN measurements ON measurements.id = (
        SELECT m.id FROM measurements AS m WHERE m.trial_id = trials.id AND m.kind <> 'audit'
        ORDER BY m.kind = 'final' DESC, m.id DESC LIMIT 1)""",
)

_LOAD = (
    "ALTER TABLE winners ADD COLUMN foreign_share REAL CHECK (foreign_share BETWEEN 0 AND 1)",
    "DROP VIEW best",
    _AUDIT[-1].replace("winners.regret,", "winners.regret, winners.foreign_share,"),
)

_PEER_TIMES = (
    """CREATE TABLE peer_times (
        id INTEGER PRIMARY KEY,
        problem_id TEXT NOT NULL REFERENCES problems (id),
        target_id TEXT NOT NULL REFERENCES targets (id),
        tokens INTEGER NOT NULL CHECK (tokens >= 0), load TEXT NOT NULL,
        peer TEXT NOT NULL CHECK (peer <> ''), version TEXT NOT NULL, form TEXT NOT NULL,
        dtype TEXT NOT NULL,
        temperature TEXT NOT NULL CHECK (temperature IN ('cold', 'warm')),
        median_ns REAL NOT NULL CHECK (median_ns BETWEEN 0 AND 1e18),
        low_ns REAL CHECK (low_ns BETWEEN 0 AND median_ns),
        high_ns REAL CHECK (high_ns BETWEEN median_ns AND 1e18),
        ours_ns REAL CHECK (ours_ns BETWEEN 0 AND 1e18),
        ratio REAL CHECK (ratio BETWEEN 0 AND 1e9),
        ratio_low REAL CHECK (ratio_low BETWEEN 0 AND ratio),
        ratio_high REAL CHECK (ratio_high BETWEEN ratio AND 1e9),
        variant TEXT NOT NULL, match TEXT NOT NULL, machine TEXT NOT NULL,
        session TEXT NOT NULL, created TEXT NOT NULL)""",
    "CREATE INDEX peer_times_problem ON peer_times (problem_id, target_id)",
)

MIGRATIONS = (
    Migration(1, "tables", _TABLES),
    Migration(2, "view best and what guards it", _BEST),
    Migration(3, "sessions, and what few variants lose", _SESSIONS),
    Migration(4, "measurements of audits, when each was taken, and regret in view best", _AUDIT),
    Migration(5, "how loaded the machine was when a winner was found", _LOAD),
    Migration(6, "all cores are workers 0, whatever their number", (), former.migrate),
    Migration(7, "what peers took", _PEER_TIMES),
)


def version(connection: sqlite3.Connection) -> int:
    """The number of the last step applied; 0 for an empty file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Whether the file holds tables of another program."""
    # In this order: another process that creates the file brings tables and mark at one moment.
    tables = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is not None
    return tables and connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID


def migrate(connection: sqlite3.Connection, steps: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the steps that are missing. Call it inside a write transaction: all or nothing."""
    missing = steps[version(connection) :]
    if missing:
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for step in missing:
        for statement in step.statements:
            connection.execute(statement)
        step.then(connection)
        connection.execute(f"PRAGMA user_version = {step.number}")
