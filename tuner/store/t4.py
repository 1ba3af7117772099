"""T4: recorded trials of one workload in Kernel Tuner's results format, as a file that others read.

The format: "T4 results" 1.0.0 of the autotuning community, https://github.com/odgaard/TuningSchema;
Kernel Tuner writes and reads it. One object: `schema_version`, `results`, and (as Kernel Tuner has
it) `metadata` with the unit of all times, milliseconds. `metadata.moetune` says what was measured
and holds the space, so that a file can be searched again without the template (`tuner.search.replay`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import DatabaseError, TemplateError, UsageError
from tuner.host import json_text
from tuner.host.files import write_whole
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space import space, templates
from tuner.space.space import Space, is_current
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, now
from tuner.target import Target

SCHEMA_VERSION = "1.0.0"
# Status of a trial -> the schema's `invalidity`. A slow variant is right, and has a time.
INVALIDITY = {
    "ok": "correct",
    "slow": "correct",
    "invalid": "constraints",
    "compile": "compile",
    "timeout": "timeout",
    "crash": "runtime",
    "wrong": "correctness",
}
OBJECTIVE = "time"
_MS = 1e-6  # of a nanosecond


def document(rows: Iterable[TrialRow], about: Mapping[str, Any]) -> dict[str, Any]:
    """The T4 document of trials; `about` becomes `metadata.moetune`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "metadata": {"timeunit": "milliseconds", "moetune": dict(about)},
        "results": [_result(row) for row in rows],
    }


def about(
    problem: Problem,
    target: Target,
    workload: Workload,
    rows: Sequence[TrialRow],
    searched: Space | None,
) -> dict[str, Any]:
    """What a reader has to know of the trials of one cell, and (`searched`) what a replay needs."""
    environment = rows[-1].environment if rows else {}
    measured = next((row.measurement for row in reversed(rows) if row.measurement), None)
    return {
        "problem": problem.key,
        "problem_name": problem.name,
        "target": target.key,
        "target_name": target.name,
        "tokens": workload.tokens,
        "load": workload.load,
        "temperature": measured.temperature if measured else "",
        "template_digest": environment.get("template", ""),
        "toolchain": environment.get("toolchain", ""),
        "foreign": max((row.environment.get("foreign", 0.0) for row in rows), default=0.0),
        "written": now(),
        "space": searched.to_json() if searched else None,
    }


def of_cell(
    db: Database, problem: str | None, tokens: int | None, load: str | None
) -> tuple[dict[str, Any], int]:
    """The document of the one cell that these describe, and how many trials were left out.

    Left out are trials of an earlier template or compiler: a configuration is another kernel there.

    Raises:
        UsageError: no cell, or several are of this description; names what there is.
    """
    cell = _one(db.workloads(), problem, tokens, load)
    key = (cell["problem_id"], cell["target_id"], cell["tokens"], cell["load"])
    rows = db.trials(*key)
    current = [row for row in rows if _made_by(row) == _made_by(rows[-1])]
    layer = Problem.from_key(cell["problem"], name=cell["problem_name"])
    target = Target.from_key(cell["target"] | {"name": cell["target_name"]})
    workload = Workload(cell["tokens"], cell["load"])
    searched = _space(current[-1], layer, target, workload)
    told = about(layer, target, workload, current, searched)
    return document(current, told), len(rows) - len(current)


def _one(
    cells: Sequence[Mapping[str, Any]], problem: str | None, tokens: int | None, load: str | None
) -> Mapping[str, Any]:
    wanted = {"problem_name": problem, "tokens": tokens, "load": load}
    given = {name: value for name, value in wanted.items() if value is not None}
    found = [cell for cell in cells if all(cell[name] == given[name] for name in given)]
    if len(found) == 1:
        return found[0]
    there = "; ".join(
        f"--problem {c['problem_name'] or c['problem_id']} --tokens {c['tokens']} --load {c['load']} "
        f"({c['trials']} trials on {c['arch']})"
        for c in found or cells
    )
    if not cells:
        raise UsageError("T4: the database has no trial; run `moetune tune` first")
    what = "a file holds one cell, name one" if found else "no such cell"
    raise UsageError(f"T4: {what}; there are: {there}")


def _made_by(row: TrialRow) -> tuple[str, str]:
    """Digest of the template, with which one of its `[history]` is one; and the compiler."""
    digest = row.environment.get("template", "")
    current = is_current(row.template, digest)
    digest = templates.digest(row.template) if current else digest
    return digest, row.environment.get("toolchain", "")


def _space(row: TrialRow, problem: Problem, target: Target, workload: Workload) -> Space | None:
    """The space that a trial is of; None where the template has changed since, or makes no such kernel.

    What was imported is kept as it was measured elsewhere, by whatever templates are there.
    """
    if not is_current(row.template, row.environment.get("template", "")):
        return None
    try:
        return space.resolve(space.load(row.template), problem, target, workload.tokens)
    except TemplateError:
        return None


def _result(row: TrialRow) -> dict[str, Any]:
    measured = row.final if row.status in ("ok", "slow") else None
    invalidity = INVALIDITY[row.status]
    result = {
        "timestamp": row.created,
        "configuration": row.config,
        "objectives": [OBJECTIVE],
        "times": _times(row, measured),
        "invalidity": invalidity,
        "correctness": float(invalidity == "correct"),
        "measurements": _measurements(measured) if measured else [],
        "status": row.status,
    }
    return result | ({"message": row.message} if row.message else {})


def _times(row: TrialRow, measured: MeasurementRow | None) -> dict[str, Any]:
    """Milliseconds; what was not done took none."""
    samples = measured.samples if measured else ()
    return {
        "compilation_time": round(row.compile_ms or 0.0, 3),
        "framework": round(row.render_ms or 0.0, 3),
        "search_algorithm": 0.0,
        "validation": round(row.verify_ms or 0.0, 3),
        "benchmark": round(row.benchmark_ms or 0.0, 3),
        "runtimes": [round(ns * _MS, 6) for ns in samples],
    }


def _measurements(row: MeasurementRow) -> list[dict[str, Any]]:
    """The objective first; `ratio` is the time over the default's in the same race.

    `kind` is `final` where the trial was measured again, at length, and those numbers are told.
    """
    values = [
        (OBJECTIVE, row.median_ns * _MS, "ms"),
        ("time_low", row.low_ns * _MS, "ms"),
        ("time_high", row.high_ns * _MS, "ms"),
        ("ratio", row.ratio, ""),
        ("ratio_low", row.ratio_low, ""),
        ("ratio_high", row.ratio_high, ""),
        ("rate", row.gflop_s, "GFLOP/s"),
        ("bandwidth", row.gb_s, "GB/s"),
    ]
    told = [
        {"name": name, "value": round(value, 6), "unit": unit}
        for name, value, unit in values
        if value is not None
    ]
    return [*told, {"name": "kind", "value": row.kind, "unit": ""}]


def encoded(content: Mapping[str, Any]) -> bytes:
    """The text of a document; the same document gives the same bytes."""
    lines = ",\n".join(json.dumps(result) for result in content["results"])
    head = {name: value for name, value in content.items() if name != "results"}
    return f'{json.dumps(head)[:-1]}, "results": [\n{lines}\n]}}\n'.encode()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a document, packed where the name ends in .gz, whole or not at all.

    Raises DatabaseError where it cannot be written.
    """
    data = encoded(content)
    try:
        write_whole(path, gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror}); name a file in a folder of yours"
        raise DatabaseError(message) from error


def read(path: Path) -> dict[str, Any]:
    """A document as `document` made it. Raises DatabaseError where the file is none."""
    mend = "name a .t4.json or .t4.json.gz that moetune wrote"
    try:
        data = path.read_bytes()
        packed = data[:2] == b"\x1f\x8b"
        content = json_text.parse(gzip.decompress(data) if packed else data)
    except OSError as error:
        reason = error.strerror or str(error)  # gzip's own errors have no strerror
        raise DatabaseError(f"{path}: cannot be read ({reason}); {mend}") from error
    except (ValueError, EOFError, zlib.error) as error:
        raise DatabaseError(f"{path}: is no JSON ({error}); {mend}") from error
    if not isinstance(content, dict) or not isinstance(content.get("results"), list):
        raise DatabaseError(f"{path}: holds no T4 results; {mend}")
    return content
