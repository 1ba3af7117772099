"""Contents: what a database holds, a page at a time, for people and programs that look around in it.

Every list is ordered by id and continued after the last id of the page before, so rows that are
added meanwhile neither repeat nor hide others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuner.store.database import Database

Row = dict[str, Any]

# Filter of `trials` -> what it compares.
TRIAL_FILTERS = {
    "problem": "trials.problem_id",
    "target": "trials.target_id",
    "tokens": "trials.tokens",
    "load": "trials.load",
    "status": "trials.status",
    "session": "trials.session",
    "variant": "variants.name",
}

_PROBLEMS = """SELECT id, name, data AS problem,
    (SELECT COUNT(*) FROM trials WHERE problem_id = problems.id) AS trials,
    (SELECT COUNT(*) FROM winners WHERE problem_id = problems.id) AS winners
    FROM problems WHERE {where} ORDER BY id LIMIT :limit"""

_LAYERS = "SELECT id, name, data AS problem FROM problems WHERE {where} ORDER BY id LIMIT :limit"

_TARGETS = """SELECT id, arch, name, data AS target FROM targets
    WHERE {where} ORDER BY id LIMIT :limit"""

_TRIALS = """SELECT trials.id, trials.problem_id, problems.name AS problem_name, trials.target_id,
    targets.arch, trials.tokens, trials.load, trials.status, trials.message, variants.template,
    variants.name AS variant, variants.config, trials.source_digest, trials.compile_ms,
    trials.verify_ms, trials.benchmark_ms, trials.environment, trials.session, trials.created,
    measurements.kind, measurements.temperature, measurements.sample_count,
    measurements.median_ns, measurements.low_ns, measurements.high_ns, measurements.p95_ns,
    measurements.p99_ns, measurements.ratio, measurements.ratio_low, measurements.ratio_high,
    measurements.gflop_s, measurements.gb_s, measurements.ceiling, measurements.ceiling_fraction
    FROM trials
    JOIN variants ON variants.id = trials.variant_id
    JOIN problems ON problems.id = trials.problem_id
    JOIN targets ON targets.id = trials.target_id
    LEFT JOIN measurements ON measurements.id = (
        SELECT m.id FROM measurements AS m WHERE m.trial_id = trials.id AND m.kind <> 'audit'
        ORDER BY m.kind = 'final' DESC, m.id DESC LIMIT 1)
    WHERE {where} ORDER BY trials.id LIMIT :limit"""

_VARIANT = """SELECT variants.id, template, variants.name AS variant, config, pack,
    (SELECT COUNT(*) FROM trials WHERE variant_id = variants.id) AS trials
    FROM variants WHERE variants.name = :name ORDER BY variants.id"""

_WON = """SELECT winners.problem_id, problems.name AS problem_name, winners.target_id, targets.arch,
    winners.tokens, winners.load
    FROM trials JOIN winners ON winners.trial_id = trials.id
    JOIN problems ON problems.id = winners.problem_id
    JOIN targets ON targets.id = winners.target_id
    WHERE trials.variant_id = :id ORDER BY winners.id LIMIT :limit"""

_OVERVIEW = """SELECT winners.problem_id, problems.name AS problem_name, problems.data AS problem,
    winners.target_id, targets.arch, targets.name AS target_name, targets.data AS target,
    COUNT(*) AS winners, MIN(winners.tokens) AS fewest, MAX(winners.tokens) AS most,
    MIN(winners.ratio) AS ratio_best, MAX(winners.ratio) AS ratio_worst,
    MIN(winners.ceiling_fraction) AS fraction_low, MAX(winners.ceiling_fraction) AS fraction_high,
    MAX(winners.created) AS created
    FROM winners JOIN problems ON problems.id = winners.problem_id
    JOIN targets ON targets.id = winners.target_id
    GROUP BY winners.problem_id, winners.target_id
    ORDER BY problem_name, winners.problem_id, arch, winners.target_id
    LIMIT :limit OFFSET :skip"""

_TRIED = """SELECT tokens, load, COUNT(*) AS trials, MAX(id) AS newest FROM trials
    WHERE problem_id = :problem AND target_id = :target
    GROUP BY tokens, load ORDER BY load, tokens"""

# Only the rows that were added last are looked at: no session has more.
_RUNNING = """SELECT trials.session, trials.problem_id, problems.name AS problem_name,
    problems.data AS problem, trials.target_id, targets.arch, targets.name AS target_name,
    COUNT(*) AS trials, MIN(trials.created) AS first, MAX(trials.created) AS last,
    MAX(trials.id) AS newest
    FROM trials JOIN problems ON problems.id = trials.problem_id
    JOIN targets ON targets.id = trials.target_id
    WHERE trials.id > (SELECT MAX(id) FROM trials) - :look AND trials.session <> ''
    AND trials.session NOT IN (SELECT id FROM sessions)
    GROUP BY trials.session, trials.problem_id, trials.target_id
    HAVING last >= :since ORDER BY newest DESC"""
_LOOK = 20_000

_TABLES = ("problems", "targets", "trials", "winners")


def problems(db: Database, after: str, limit: int) -> list[Row]:
    """Problems by rising id: id, name, problem (its key), trials and winners (how many)."""
    return db.query(_PROBLEMS.format(where="id > :after"), {"after": after, "limit": limit})


def problem(db: Database, id: str) -> Row | None:
    """One problem, as ``problems`` has it; None where it is not there."""
    return _first(db.query(_PROBLEMS.format(where="id = :id"), {"id": id, "limit": 1}))


def layer(db: Database, id: str) -> Row | None:
    """One problem without counts: id, name, problem (its key)."""
    return _first(db.query(_LAYERS.format(where="id = :id"), {"id": id, "limit": 1}))


def layers_named(db: Database, name: str, limit: int) -> list[Row]:
    """The problems with this label, as ``layer`` has them."""
    return db.query(_LAYERS.format(where="name = :name"), {"name": name, "limit": limit})


def won_layers(db: Database) -> list[Row]:
    """The problems that have winners, as ``layer`` has them."""
    where = "id IN (SELECT problem_id FROM winners)"
    return db.query(_LAYERS.format(where=where), {"limit": -1})


def targets(db: Database, after: str, limit: int) -> list[Row]:
    """Targets by rising id: id, arch, name, target (its key), ceilings (name -> value, unit, created)."""
    rows = db.query(_TARGETS.format(where="id > :after"), {"after": after, "limit": limit})
    return [_with_ceilings(db, row) for row in rows]


def target(db: Database, id: str) -> Row | None:
    """One target, as ``targets`` has it; None where it is not there."""
    row = _first(db.query(_TARGETS.format(where="id = :id"), {"id": id, "limit": 1}))
    return _with_ceilings(db, row) if row else None


def targets_of(db: Database, arch: str, limit: int) -> list[Row]:
    """The targets of one architecture."""
    return db.query(_TARGETS.format(where="arch = :arch"), {"arch": arch, "limit": limit})


def trials(db: Database, wanted: Mapping[str, Any], after: int, limit: int) -> list[Row]:
    """Trials by rising id, each with the measurement that counts (None where it failed).

    ``wanted`` holds the value of each of TRIAL_FILTERS that has to match.
    """
    parts = ["trials.id > :after", *(f"{TRIAL_FILTERS[name]} = :{name}" for name in wanted)]
    sql = _TRIALS.format(where=" AND ".join(parts))
    return db.query(sql, {**wanted, "after": after, "limit": limit})


def variant(db: Database, name: str, most_won: int) -> Row | None:
    """One variant by its name: id, template, variant, config, pack, trials, won (workloads)."""
    row = _first(db.query(_VARIANT, {"name": name}))
    return row and row | {"won": db.query(_WON, {"id": row["id"], "limit": most_won})}


def overview(db: Database, skip: int, limit: int) -> list[Row]:
    """One row for each problem and target that has winners, by name: the range of what they gained."""
    return db.query(_OVERVIEW, {"skip": skip, "limit": limit})


def tried(db: Database, problem_id: str, target_id: str) -> list[Row]:
    """The workloads of a problem on a target that have trials: tokens, load, trials, newest (the last id)."""
    return db.query(_TRIED, {"problem": problem_id, "target": target_id})


def running(db: Database, since: str) -> list[Row]:
    """Sessions that have not ended and recorded a trial since a time (UTC, ISO 8601), the newest first."""
    return db.query(_RUNNING, {"since": since, "look": _LOOK})


def counts(db: Database) -> dict[str, int]:
    """How many rows each table has."""
    return {
        table: int(db.query(f"SELECT COUNT(*) AS rows FROM {table}", {})[0]["rows"])
        for table in _TABLES
    }


def _first(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None


def _with_ceilings(db: Database, row: Row) -> Row:
    return row | {
        "ceilings": {
            limit.name: {"value": limit.value, "unit": limit.unit, "created": limit.created}
            for limit in db.ceilings(row["id"]).values()
        }
    }
