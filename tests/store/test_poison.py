"""Whatever a store takes, it can export, merge, show and export again."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lines
from tests.damage import as_bytes, damaged
from tests.properties import tried
from tuner.cli.commands.best import _lines as shown
from tuner.errors import DatabaseError, MergeError, MoetuneError
from tuner.problem import Problem
from tuner.report.peer_times import PeerFile
from tuner.report.report import markdown, sections
from tuner.select.select import best_config
from tuner.store import t4
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best, texts
from tuner.store.merge import merge
from tuner.target import Target


@st.composite
def poisoned(draw: st.DrawFn) -> bytes:
    """A winner one or two of whose values are anything."""
    return draw(as_bytes(draw(damaged(lines.won()))))


def show(db: Database) -> None:
    """What commands and the service make of it."""
    for row in db.best():
        problem = Problem.from_key(row["problem"], name=row["problem_name"])
        target = Target.from_key({**row["target"], "name": row["target_name"]})
        found = best_config(problem, row["tokens"], row["load"], target, db, compiler="")
        json.dumps(found.to_json(), allow_nan=False, ensure_ascii=False).encode()
        assert list(shown(found))
        made = sections(db, problem, PeerFile())
        assert markdown(made)
        assert all(one.answers and one.steps and one.trials for one in made)


@given(text=poisoned())
@pytest.mark.fuzz
@tried(300)
@pytest.mark.parametrize("taken_by", ["merge", "import"])
def test_what_is_taken_travels(
    taken_by: str, text: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("poison")
    (folder / "in.jsonl").write_bytes(text)
    with Database(folder / "a.sqlite3") as db, Database(folder / "b.sqlite3") as other:
        try:
            merge(db, text, "here") if taken_by == "merge" else import_best(db, folder / "in.jsonl")
        except MoetuneError:
            assert not texts(db)
        if not texts(db):  # refused, or cut to nothing
            return
        export_best(db, folder / "best.jsonl")
        show(db)
        t4.write(folder / "one.t4.json", t4.of_cell(db, None, None, None)[0])
        t4.read(folder / "one.t4.json")
        exported = (folder / "best.jsonl").read_bytes()
        if taken_by == "merge":
            merge(other, exported, "there")
        else:
            import_best(other, folder / "best.jsonl")
        export_best(other, folder / "again.jsonl")
        assert (folder / "again.jsonl").read_bytes() == exported


ENVIRONMENT = '"environment": {'


@pytest.mark.parametrize(
    ("at", "text", "said"),
    [
        ('"created": ', '"created": "x", "created": ', "'created': stands twice in one object"),
        (ENVIRONMENT, f'{ENVIRONMENT}"note": "\\ud800", ', "environment.note: holds '\\ud800'"),
        (ENVIRONMENT, f'{ENVIRONMENT}"n": {1 << 63}, ', "environment.n: is a whole number of more"),
        (ENVIRONMENT, f'{ENVIRONMENT}"n": [1e999], ', "holds 1e999, which is too large"),
        (ENVIRONMENT, f'{ENVIRONMENT}"driver": "x", ', "environment.driver: must be int"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_again_is_told_by_name(
    tmp_path: Path, at: str, text: str, said: str
) -> None:
    line = json.dumps(lines.won()).replace(at, text, 1)
    (tmp_path / "in.jsonl").write_text(line)
    with Database(tmp_path / "t.sqlite3") as db:
        with pytest.raises(MergeError, match=re.escape(said)):
            merge(db, line.encode(), "here")
        with pytest.raises(DatabaseError, match=re.escape(said)):
            import_best(db, tmp_path / "in.jsonl")


def test_a_database_that_took_it_before_is_exported(tmp_path: Path) -> None:
    """Half of a surrogate pair becomes U+FFFD; the row is not lost, and can be merged."""
    with Database(tmp_path / "t.sqlite3") as db, Database(tmp_path / "other.sqlite3") as other:
        merge(db, lines.text(lines.won()), "here")
        raw = sqlite3.connect(db.path)
        raw.execute(
            """UPDATE trials SET environment = json_set(environment, '$.note', json('"\\ud800"'))"""
        )
        raw.commit()
        raw.close()
        assert export_best(db, tmp_path / "best.jsonl") == 1
        text = (tmp_path / "best.jsonl").read_bytes()
        assert "\ufffd".encode() in text
        assert [line.outcome for line in merge(other, text, "there")] == ["taken"]
