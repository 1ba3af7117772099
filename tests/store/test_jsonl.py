"""Winners as text: the same bytes after a round trip, and all or nothing where a line is bad."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rows import CREATED, PROBLEM, TARGET, add_trial, add_winner, winner_of
from tuner.errors import DatabaseError
from tuner.problem import PRESETS
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best

LATER = "2026-02-01T00:00:00+00:00"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "from.sqlite3") as opened:
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "to.sqlite3") as opened:
        yield opened


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return tmp_path / "best.jsonl"


def fill(db: Database) -> None:
    """A winner paired with a default, defaults that won, several workloads, an odd label."""
    default = add_trial(db, variant="k_a1")
    trial = add_trial(db, variant="k_a2", compile_ms=1.25)
    db.record_winner(winner_of(trial, default_trial_id=default.id, gflop_s=0.1 + 0.2))
    itself = add_trial(db, 1, variant="k_a1")
    db.record_winner(winner_of(itself, default_trial_id=itself.id, is_default=True, ratio=1))
    for name in reversed(PRESETS):
        add_winner(db, 64, "zipf:1.2", problem=PRESETS[name].replace(name=f"{name} é"))


def exported(db: Database, path: Path) -> bytes:
    export_best(db, path)
    return path.read_bytes()


def test_round_trip_gives_the_same_bytes(db: Database, other: Database, text: Path) -> None:
    fill(db)
    before = exported(db, text)
    assert import_best(other, text) == 2 + len(PRESETS)
    assert exported(other, text) == before


def test_import_rebuilds_every_row(db: Database, other: Database, text: Path) -> None:
    fill(db)
    export_best(db, text)
    import_best(other, text)
    ids = ("trial_id", "default_trial_id")
    for here, there in zip(db.best(), other.best(), strict=True):
        assert {k: v for k, v in here.items() if k not in ids} == {
            k: v for k, v in there.items() if k not in ids
        }
    paired = next(row for row in other.best() if row["variant"] == "k_a2")
    assert other.trial(paired["default_trial_id"]).variant == "k_a1"


def test_lines_are_sorted_whatever_the_order_of_recording(
    db: Database, other: Database, text: Path
) -> None:
    for tokens in (1, 16, 128):
        add_winner(db, tokens)
    for tokens in (128, 1, 16):
        add_winner(other, tokens)
    assert exported(db, text) == exported(other, text)
    assert [json.loads(line)["tokens"] for line in text.open()] == [1, 16, 128]


def test_a_line_shows_what_a_reviewer_needs(db: Database, text: Path) -> None:
    add_winner(db)
    line = json.loads(exported(db, text))
    assert list(line) == sorted(line)
    assert line["problem"] == {"key": PROBLEM.key, "name": "small"}
    assert line["target"]["key"]["arch"] == TARGET.arch
    assert line["tried"]["measurement"]["sample_count"] == 2
    assert "samples" not in line["tried"]["measurement"]
    assert line["winner"]["ratio"] == 0.8


def test_empty_database_and_empty_file(db: Database, other: Database, text: Path) -> None:
    assert exported(db, text) == b""
    assert import_best(other, text) == 0


def test_importing_twice_adds_nothing(db: Database, other: Database, text: Path) -> None:
    add_winner(db)
    before = exported(db, text)
    import_best(other, text)
    import_best(other, text)
    assert len(other.trials(PROBLEM.digest, TARGET.digest, 128, "uniform")) == 1
    assert exported(other, text) == before


def test_later_winner_stays(db: Database, other: Database, text: Path) -> None:
    add_winner(db, variant="k_a1")
    other.record_winner(winner_of(add_trial(other, variant="k_a2"), created=LATER))
    export_best(db, text)
    assert import_best(other, text) == 0
    assert [row["variant"] for row in other.best()] == ["k_a2"]


def test_earlier_winner_gives_way(db: Database, other: Database, text: Path) -> None:
    db.record_winner(winner_of(add_trial(db, variant="k_a1"), created=LATER))
    add_winner(other, variant="k_a2", created=CREATED)
    export_best(db, text)
    assert import_best(other, text) == 1
    assert [row["variant"] for row in other.best()] == ["k_a1"]


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit of one field of a line; the value None takes the field away."""

    def edit(line: dict[str, Any]) -> None:
        for name in path[:-1]:
            line = line[name]
        line[path[-1]] = value
        if value is None:
            del line[path[-1]]

    return edit


EDITS = {
    "line: lacks winner": put("winner", value=None),
    "line: does not know more": put("more", value=1),
    "line.tokens: is '5', must be int": put("tokens", value="5"),
    "line.tokens: is True, must be int": put("tokens", value=True),
    "line.winner: is 3, must be dict": put("winner", value=3),
    "tried.trial: lacks status": put("tried", "trial", "status", value=None),
    "winner.ratio: is 'x', must be int or float": put("winner", "ratio", value="x"),
    "holds NaN, which is no JSON number": put("winner", "ratio", value=float("nan")),
    "has status wrong and can never be a winner": put("tried", "trial", "status", value="wrong"),
    "tried.trial.status: is none of ok, invalid": put("tried", "trial", "status", value="fine"),
    "hidden=0: must be at least 1": put("problem", "key", "hidden", value=0),
    "problem key: lacks top_k": put("problem", "key", "top_k", value=None),
    "target.key: lacks cores": put("target", "key", "cores", value=None),
    "target.key.kind: is '', must be cpu or gpu": put("target", "key", "kind", value=""),
    "target.key.cores: is 'two', must be int": put("target", "key", "cores", value="two"),
    "tokens: is a whole number of more than 64 bits": put("tokens", value=2**70),
    "tried.variant.name: holds '\\ud800', half of a surrogate pair": put(
        "tried", "variant", "name", value="\ud800"
    ),
}


@pytest.mark.parametrize("message", EDITS)
def test_bad_field_is_named_with_its_line_and_nothing_is_imported(
    db: Database, other: Database, text: Path, message: str
) -> None:
    add_winner(db, 1)
    add_winner(db, 16)
    first, second = exported(db, text).decode().splitlines()
    line = json.loads(second)
    EDITS[message](line)
    assert failure(other, text, f"{first}\n{json.dumps(line)}\n".encode(), 2).count(message) == 1


@pytest.mark.parametrize("bad", [b"{", b"[1]", b"\xff", b"null", b"<<<<<<< ours", b"[" * 100_000])
def test_line_that_is_no_object_is_named(
    db: Database, other: Database, text: Path, bad: bytes
) -> None:
    add_winner(db)
    failure(other, text, exported(db, text) + b"\n" + bad, 3)


def test_repeated_workload_names_both_lines(db: Database, other: Database, text: Path) -> None:
    add_winner(db)
    line = exported(db, text)
    assert "has the problem, target, tokens and load of line 1" in failure(other, text, line * 2, 2)


def failure(db: Database, path: Path, content: bytes, number: int) -> str:
    """Import what must be refused; return the message. Nothing may have been stored."""
    path.write_bytes(content)
    with pytest.raises(DatabaseError) as caught:
        import_best(db, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: line {number}: ")
    assert message.endswith("nothing was imported, mend or drop the line")
    raw = sqlite3.connect(db.path)
    for table in ("targets", "problems", "variants", "trials", "winners"):
        assert raw.execute(f"SELECT * FROM {table}").fetchall() == []
    raw.close()
    return message


def test_missing_file_is_named(db: Database, text: Path) -> None:
    with pytest.raises(DatabaseError, match=r"best\.jsonl: cannot be read \(No such file"):
        import_best(db, text)


def test_failed_export_leaves_the_old_file(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(DatabaseError, match=r"folder\.jsonl: cannot be written \(Is a directory"):
        export_best(db, folder)
    with pytest.raises(DatabaseError, match="cannot be written"):
        export_best(db, tmp_path / "missing" / "best.jsonl")
    assert sorted(p.name for p in tmp_path.glob("*.jsonl*")) == ["folder.jsonl"]
