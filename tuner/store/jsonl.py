"""Winners as text: one JSON object a line, sorted, so that git can keep and people can review it.

A line holds what rebuilds its rows: the keys of problem and target, the winner, and for it and for
the default it was paired with the variant, the trial and the measurement without raw samples.
The row numbers of one database are not in it. Importing a file into an empty database and
exporting again gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tuner.errors import DatabaseError, MoetuneError
from tuner.host.files import write_whole
from tuner.host.json_text import mended
from tuner.problem import Problem
from tuner.store import fields, former, sound
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, WinnerRow


def export_best(db: Database, path: Path) -> int:
    """Write every winner of ``db`` to ``path``, whole or not at all; return how many.

    Raises:
        DatabaseError: the file cannot be written.
    """
    lines = texts(db)
    try:
        write_whole(path, "".join(lines).encode())
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); name a file in a folder of yours"
        raise DatabaseError(message) from error
    return len(lines)


def texts(db: Database) -> list[str]:
    """Every winner of ``db`` as a line of text, in their order."""
    return [_line(db, row) for row in db.best()]


def import_best(db: Database, path: Path) -> int:
    """Read winners from ``path``: all of it or, where a line is bad, nothing.

    A line takes the place of a winner for the same target, problem, tokens and load, unless that
    one was created later. Returns how many lines were taken.

    Raises:
        DatabaseError: the file cannot be read, or a line is bad; names the line's number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}); name a file that export wrote"
        raise DatabaseError(message) from error
    with db.transaction():
        return _import_lines(db, path, lines)


def _import_lines(db: Database, path: Path, lines: list[bytes]) -> int:
    taken = 0
    seen: dict[object, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = rebuild(db, line)
            check_new(seen, read.winner, number)
            taken += _take(db, read)
        except (MoetuneError, ValueError, OverflowError, RecursionError) as error:
            message = f"{path}: line {number}: {error}; nothing was imported, mend or drop the line"
            raise DatabaseError(message) from error
    return taken


def _line(db: Database, row: Mapping[str, Any]) -> str:
    """The text of one winner, from its row of the view ``best``."""
    default = row["default_trial_id"]
    paired = None if default in (None, row["trial_id"]) else db.trial(default)
    line = {
        "problem": {"key": row["problem"], "name": row["problem_name"]},
        "target": {"key": row["target"], "name": row["target_name"]},
        "tokens": row["tokens"],
        "load": row["load"],
        "winner": {name: row[name] for name in fields.WINNER},
        "tried": _tried(db.trial(row["trial_id"])),
        "default": _tried(paired) if paired else None,
    }
    # Databases of before may hold text that UTF-8 cannot.
    return mended(json.dumps(line, sort_keys=True, ensure_ascii=False, allow_nan=False)) + "\n"


def _tried(trial: TrialRow) -> dict[str, Any]:
    variant = {
        "id": trial.variant_id,
        "template": trial.template,
        "name": trial.variant,
        "config": trial.config,
        "pack": trial.pack,
    }
    final = trial.final
    return {
        "variant": variant,
        "trial": {name: getattr(trial, name) for name in fields.TRIAL},
        "measurement": {name: getattr(final, name) for name in fields.MEASUREMENT}
        if final
        else None,
    }


TriedRows = tuple[TrialRow, MeasurementRow | None]


class Line(NamedTuple):
    """What a line says: the fields of the winner but its trials' numbers, its trial, the trial of the
    default where that is another one, and the variants as the line means them."""

    winner: dict[str, Any]
    tried: TriedRows
    default: TriedRows | None
    variants: tuple[dict[str, Any], ...]


def rebuild(db: Database, text: bytes, relabel: bool = True) -> Line:
    """Check one line and store what its rows refer to.

    Without ``relabel``, problems and targets that are there keep their labels.

    Raises:
        MoetuneError, ValueError, RecursionError: the line is bad.
    """
    data = fields.read(text)
    line = fields.checked(data, fields.LINE, "line")
    problem = fields.checked(line["problem"], fields.KEY, "problem")
    target = fields.checked(line["target"], fields.KEY, "target")
    for where, part in (("problem", problem), ("target", target)):
        sound.check_sizes(part["key"], where)
    layer = Problem.from_key(problem["key"], name=problem["name"])
    machine = fields.target_of(target["key"], "target.key", target["name"])
    if not relabel:
        layer = layer.replace(name=db.label("problems", layer.digest) or layer.name)
        label = db.label("targets", machine.digest) or machine.name
        machine = dataclasses.replace(machine, name=label)
    workload = {
        "problem_id": db.add_problem(layer),
        "target_id": db.add_target(machine),
        "tokens": line["tokens"],
        "load": line["load"],
    }
    winner = workload | fields.checked(line["winner"], fields.WINNER, "winner")
    sound.check_winner(winner)
    read = {
        where: _read_tried(db, line[where], workload, where, machine.cores)
        for where in ("tried", "default")
        if line[where] is not None
    }
    default = read["default"][0] if "default" in read else None
    return Line(winner, read["tried"][0], default, tuple(variant for _, variant in read.values()))


def _read_tried(
    db: Database, data: Any, workload: Mapping[str, Any], where: str, cores: int
) -> tuple[TriedRows, dict[str, Any]]:
    """A trial of a target with so many cores, and its variant."""
    parts = fields.checked(data, fields.TRIED, where)
    variant = fields.checked(parts["variant"], fields.VARIANT, f"{where}.variant")
    sound.check_config(variant["config"])
    variant = former.meant(variant, cores)
    trial = fields.checked(parts["trial"], fields.TRIAL, f"{where}.trial")
    sound.check_trial(trial, f"{where}.trial")
    names = {"template": variant["template"], "variant": variant["name"]}
    row = TrialRow(variant_id=db.add_variant(**variant), **workload, **trial, **names)
    if parts["measurement"] is None:
        return (row, None), variant
    measured = fields.checked(parts["measurement"], fields.MEASUREMENT, f"{where}.measurement")
    sound.check_measurement(measured)
    return (row, MeasurementRow(**measured)), variant


def _take(db: Database, line: Line) -> bool:
    """Store the rows of a line; False where the database has a later winner."""
    there = best_there(db, line.winner)
    if there and there["created"] > line.winner["created"]:
        return False
    record(db, line)
    return True


def best_there(db: Database, winner: Mapping[str, Any]) -> dict[str, Any] | None:
    """The row of the view ``best`` for a winner's workload."""
    cell = (winner["problem_id"], winner["target_id"], winner["tokens"], winner["load"])
    return next(iter(db.best(*cell)), None)


def record(db: Database, line: Line) -> None:
    """Store the winner of a line in place of the former one."""
    trial_id = _stored(db, line.tried)
    default_id = trial_id if line.winner["is_default"] else None
    if line.default is not None:
        default_id = _stored(db, line.default)
    db.record_winner(WinnerRow(trial_id=trial_id, default_trial_id=default_id, **line.winner))


def _stored(db: Database, tried: TriedRows) -> int:
    """The number of this trial in ``db``: of the same one if it is there, else of a new row."""
    row, measurement = tried
    for known in db.trials(row.problem_id, row.target_id, row.tokens, row.load):
        same = (known.variant_id, known.session, known.created, known.status)
        if known.id and same == (row.variant_id, row.session, row.created, row.status):
            return known.id
    return db.record_trial(row, measurement)


def check_new(seen: dict[object, int], winner: Mapping[str, Any], number: int) -> None:
    """Refuse a second line for one workload; ``seen`` is of the lines before."""
    key = tuple(winner[name] for name in ("problem_id", "target_id", "tokens", "load"))
    if key in seen:
        raise DatabaseError(f"has the problem, target, tokens and load of line {seen[key]}")
    seen[key] = number
