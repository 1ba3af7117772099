"""T4 files: the published schema, the same bytes each time, and which cell is written."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests import grids, lines
from tests.rows import PROBLEM, TARGET, add_trial
from tuner.errors import DatabaseError, UsageError
from tuner.store import t4
from tuner.store.database import Database
from tuner.store.jsonl import import_best
from tuner.store.records import STATUSES, MeasurementRow, TrialRow

SCHEMA = json.loads((Path(__file__).parents[1] / "schemas" / "t4-results.schema.json").read_text())


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "tuning.sqlite3") as opened:
        yield opened


def exported(db: Database, path: Path, **cell: Any) -> dict[str, Any]:
    document, _ = t4.of_cell(db, **{"problem": None, "tokens": None, "load": None, **cell})
    t4.write(path, document)
    return t4.read(path)


def row(status: str, **more: Any) -> TrialRow:
    fields = {"target_id": "", "problem_id": "", "variant_id": "", "tokens": 1, "load": "uniform"}
    return TrialRow(**{**fields, "status": status, **more})


def test_every_status_fits_the_published_schema() -> None:
    content = t4.document([*grids.rows(), *map(row, STATUSES)], {"tokens": 8})
    jsonschema.validate(content, SCHEMA)
    kinds = {result["status"]: result["invalidity"] for result in content["results"]}
    assert kinds == t4.INVALIDITY
    assert set(kinds) == set(STATUSES)


def test_the_schema_is_the_one_that_kernel_tuner_ships() -> None:
    found = importlib.util.find_spec("kernel_tuner")
    if found is None or found.origin is None:
        pytest.skip("kernel_tuner is not installed")
    shipped = Path(found.origin).parent / "schema" / "T4" / t4.SCHEMA_VERSION
    ours = {name: value for name, value in SCHEMA.items() if name != "$comment"}
    assert json.loads((shipped / "results-schema.json").read_text()) == ours


def test_times_are_milliseconds_and_the_objective_comes_first() -> None:
    (result,) = t4.document([grids.rows()[0]], {})["results"]
    value = grids.ratio(result["configuration"])
    assert result["objectives"] == ["time"]
    assert result["measurements"][0] == {"name": "time", "value": round(value, 6), "unit": "ms"}
    assert result["times"]["runtimes"] == [round(value, 6), round(1.001 * value, 6)]


def test_a_trial_that_was_measured_again_tells_the_later_times() -> None:
    first = MeasurementRow(median_ns=2e6, low_ns=2e6, high_ns=2e6, ratio=0.9)
    again = MeasurementRow(median_ns=3e6, low_ns=3e6, high_ns=3e6, ratio=1.1, kind="final")
    (result,) = t4.document([row("ok", measurements=(first, again))], {})["results"]
    told = {m["name"]: m["value"] for m in result["measurements"]}
    assert (told["time"], told["ratio"], told["kind"]) == (3.0, 1.1, "final")


@pytest.mark.parametrize("name", ["g.t4.json", "g.t4.json.gz"])
def test_the_same_trials_give_the_same_bytes(tmp_path: Path, name: str) -> None:
    path = grids.write(tmp_path / name)
    before = path.read_bytes()
    assert grids.write(path).read_bytes() == before
    assert (before[:2] == b"\x1f\x8b") == name.endswith(".gz")
    assert len(t4.read(path)["results"]) == len(grids.rows())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[]", "holds no T4 results"),
        (b'{"results": 3}', "holds no T4 results"),
        (gzip.compress(b"{}", mtime=0), "holds no T4 results"),
        (gzip.compress(b'{"results": []}', mtime=0)[:-9], "is no JSON"),
        (b"\x1f\x8bxx", "is no JSON"),
        (gzip.compress(b"{}", mtime=0)[:-8] + bytes(8), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "g.t4.json.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatabaseError, match=message) as error:
        t4.read(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_folder_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder.gz"
    folder.mkdir()
    with pytest.raises(DatabaseError, match=r"folder\.gz: cannot be written"):
        t4.write(folder, t4.document([], {}))
    assert list(tmp_path.iterdir()) == [folder]


def test_export_writes_the_trials_of_one_cell(db: Database, tmp_path: Path) -> None:
    add_trial(db, 128)
    add_trial(db, 128, status="crash", variant="k_a9")
    add_trial(db, 1)
    content = exported(db, tmp_path / "trials.t4.json", tokens=128)
    jsonschema.validate(content, SCHEMA)
    assert [result["invalidity"] for result in content["results"]] == ["correct", "runtime"]
    about = content["metadata"]["moetune"]
    assert (about["problem"], about["target"]) == (PROBLEM.key, TARGET.key)
    assert (about["tokens"], about["load"], about["space"]) == (128, "uniform", None)


def test_a_trial_of_a_layer_that_its_template_cannot_make_has_no_space(tmp_path: Path) -> None:
    """Such a line can be imported; it is shown as it was measured, and so it is exported."""
    line = lines.won()
    line["target"]["key"]["kind"] = "gpu"
    (tmp_path / "in.jsonl").write_bytes(lines.text(line))
    with Database(tmp_path / "t.sqlite3") as db:
        assert import_best(db, tmp_path / "in.jsonl") == 1
        content = exported(db, tmp_path / "trials.t4.json")
    assert content["metadata"]["moetune"]["space"] is None


def test_trials_of_an_earlier_compiler_are_left_out(db: Database) -> None:
    for compiler in ("Mojo 0.9", "Mojo 0.9", "Mojo 1.0"):
        add_trial(db, compiler=compiler)
    document, left_out = t4.of_cell(db, None, None, None)
    assert (len(document["results"]), left_out) == (1, 2)
    assert document["metadata"]["moetune"]["toolchain"] == "Mojo 1.0"


def test_several_cells_are_named_for_the_choice(db: Database, tmp_path: Path) -> None:
    add_trial(db, 1)
    add_trial(db, 16)
    with pytest.raises(UsageError) as error:
        exported(db, tmp_path / "x")
    assert "a file holds one cell, name one" in str(error.value)
    assert "--problem small --tokens 16 --load uniform (1 trials on znver3)" in str(error.value)
    with pytest.raises(UsageError, match="no such cell; there are: --problem small --tokens 1 "):
        exported(db, tmp_path / "x", tokens=7)


def test_a_database_without_trials(db: Database, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no trial; run `moetune tune` first"):
        exported(db, tmp_path / "x")
