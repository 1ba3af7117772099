"""Trials as flat rows: a column a value, as data frames take them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rows import CREATED, PROBLEM, TARGET, add_trial, add_winner
from tuner.store.database import Database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "tuning.sqlite3") as opened:
        yield opened


def test_a_row_has_plain_values_alone(db: Database) -> None:
    add_winner(db, 128)
    (row,) = db.trial_rows()
    assert {type(value) for value in row.values()} <= {str, int, float, bool, type(None)}
    assert row["problem_name"] == "small"
    assert (row["tokens"], row["status"], row["kind"]) == (128, "ok", "trial")
    assert (row["median_ns"], row["created"], row["is_winner"]) == (1000.5, CREATED, True)
    assert (row["config.a"], row["environment.toolchain"]) == (8, "Mojo 1.0")


def test_a_failure_has_no_time(db: Database) -> None:
    add_trial(db, status="wrong", message="token 3")
    (row,) = db.trial_rows()
    assert (row["status"], row["message"], row["median_ns"]) == ("wrong", "token 3", None)
    assert row["is_winner"] is False


def test_rows_are_chosen_by_what_is_given(db: Database) -> None:
    add_trial(db, 1)
    add_trial(db, 16, "onehot")
    add_trial(db, 16, status="compile")

    def ids(**wanted: object) -> list[int]:
        return [row["id"] for row in db.trial_rows(**wanted)]  # type: ignore[arg-type]

    assert ids() == [1, 2, 3]
    assert ids(problem=PROBLEM, target=TARGET, tokens=16) == [2, 3]
    assert (ids(load="onehot"), ids(status="compile")) == ([2], [3])
    assert ids(problem=PROBLEM.replace(hidden=128)) == []


def test_a_data_frame_takes_them(db: Database) -> None:
    pandas = pytest.importorskip("pandas")
    add_trial(db, 1)
    frame = pandas.DataFrame(db.trial_rows())
    assert list(frame["config.a"]) == [8]
