"""Merge: which row stands above which, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lines
from tests.commands import Run
from tests.properties import tried
from tests.services import BEST
from tuner.errors import MergeError
from tuner.store.database import Database
from tuner.store.jsonl import texts
from tuner.store.merge import LineOutcome, counts, merge

Row = dict[str, Any]


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def outcomes(db: Database, *rows: Row) -> list[str]:
    return [line.outcome for row in rows for line in merge(db, lines.text(row), "here")]


def test_an_empty_database_takes_all_and_the_same_again_changes_nothing(db: Database) -> None:
    text = lines.text(*lines.stored())
    assert counts(merge(db, text, "here")) == {"taken": 12, "same": 0, "kept": 0}
    whole = texts(db)
    trials = db.query("SELECT COUNT(*) AS n FROM trials", {})
    assert counts(merge(db, text, "here")) == {"taken": 0, "same": 12, "kept": 0}
    assert (texts(db), db.query("SELECT COUNT(*) AS n FROM trials", {})) == (whole, trials)
    assert sorted(json.loads(line)["tokens"] for line in whole) == sorted(
        row["tokens"] for row in lines.stored()
    )


def test_only_what_is_surely_faster_replaces_a_proven_row(db: Database) -> None:
    assert outcomes(db, lines.won(), lines.faster(0.5), lines.faster(1.0001), lines.faster(1.5)) == [
        "taken", "kept", "kept", "taken",
    ]  # fmt: skip


def test_what_is_not_proven_never_replaces_what_is(db: Database) -> None:
    assert outcomes(db, lines.won(), lines.unproven()) == ["taken", "kept"]
    (found,) = merge(db, lines.text(lines.unproven()), "here")
    assert found.reason == "proven in the finals, the other is not"


def test_what_is_proven_replaces_what_is_not(db: Database) -> None:
    assert outcomes(db, lines.unproven(), lines.faster(0.5)) == ["taken", "taken"]


def test_without_samples_nothing_is_proven(db: Database) -> None:
    row = lines.faster(2.0)
    row["tried"]["measurement"] = None
    assert outcomes(db, lines.won(), row) == ["taken", "kept"]


def test_another_template_stands_below(db: Database) -> None:
    old = lines.faster(5.0)
    old["tried"]["trial"]["environment"]["template"] = "0" * 16
    assert outcomes(db, lines.won(), old) == ["taken", "kept"]


def test_an_older_template_gives_way_to_the_present_one(db: Database) -> None:
    old = lines.faster(5.0)
    old["tried"]["trial"]["environment"]["template"] = "0" * 16
    assert outcomes(db, old, lines.won()) == ["taken", "taken"]


def test_of_two_without_proof_the_later_stays(db: Database) -> None:
    first, later = lines.unproven(), lines.unproven()
    later["winner"]["created"] = "2026-11-25T23:00:00+00:00"
    assert outcomes(db, first, later, first) == ["taken", "taken", "kept"]


def test_cold_and_warm_are_not_compared(db: Database) -> None:
    row = lines.faster(5.0)
    before = row["tried"]["measurement"]["temperature"]
    row["tried"]["measurement"]["temperature"] = "cold" if before == "warm" else "warm"
    assert outcomes(db, lines.won(), row) == ["taken", "kept"]


def test_labels_are_not_changed_from_outside(db: Database) -> None:
    merge(db, lines.text(lines.won()), "here")
    name = lines.won()["problem"]["name"]
    row = lines.faster(2.0)
    row["problem"]["name"] = row["target"]["name"] = "mine"
    assert outcomes(db, row) == ["taken"]
    (best,) = db.best()
    assert (best["problem_name"], best["target_name"]) == (name, lines.won()["target"]["name"])


def put(*path: str, value: Any) -> Callable[[Row], None]:
    def change(row: Row) -> None:
        for name in path[:-1]:
            row = row[name]
        row[path[-1]] = value

    return change


BAD = {
    "variant.name: is 'moe_cpu_x'": put("tried", "variant", "name", value="moe_cpu_x"),
    "variant.id: is 'beef'": put("tried", "variant", "id", value="beef"),
    "variant.pack: is 'p9'": put("tried", "variant", "pack", value="p9"),
    "template 'moe_tpu': not installed here": put("tried", "variant", "template", value="moe_tpu"),
    "values must be whole numbers": put("tried", "variant", "config", "unroll", value=4.5),
    "missing or unknown in a configuration": put("tried", "variant", "config", value={"a": 1}),
    "must be a time in ISO 8601": put("winner", "created", value="yesterday"),
    "must be in UTC": put("winner", "created", value="2026-01-01T00:00:00"),
    "is in the future": put("tried", "trial", "created", value="2999-01-01T00:00:00+00:00"),
    "ratio_low, ratio and ratio_high must rise": put("winner", "ratio_low", value=2.0),
    "low_ns, median_ns and high_ns must rise": put("tried", "measurement", "low_ns", value=0),
    "message or session: longer": put("tried", "trial", "session", value="s" * 2001),
    "has status wrong": put("tried", "trial", "status", value="wrong"),
    "holds Infinity": put("winner", "gflop_s", value=float("inf")),
    "tokens: is '1'": put("tokens", value="1"),
    "load='mine'": put("load", value="mine"),
    "fields must be": put("problem", "key", value={}),
}


@pytest.mark.parametrize("said", BAD)
def test_a_bad_line_is_refused_and_nothing_is_taken(db: Database, said: str) -> None:
    row = lines.won()
    BAD[said](row)
    good = next(r for r in lines.stored() if r["tokens"] != row["tokens"])
    with pytest.raises(MergeError, match=r"^here: line 2: ") as caught:
        merge(db, lines.text(good, row), "here")
    if said != "fields must be":
        assert said in str(caught.value)
    assert db.query("SELECT * FROM trials", {}) == []


def test_a_number_that_is_too_large_is_refused(db: Database) -> None:
    text = lines.text(lines.won()).replace(
        b'"ceiling_fraction": ', b'"ceiling_fraction": 1e999, "x": ', 1
    )
    with pytest.raises(MergeError, match="holds 1e999, which is too large"):
        merge(db, text, "here")


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_PATHS = st.sampled_from(
    [
        (part, *rest)
        for part, value in lines.won().items()
        for rest in [(), *((n,) for n in (value if isinstance(value, dict) else ()))]
    ]
)


@pytest.mark.fuzz
@tried(60)
@given(
    path=_PATHS,
    value=_SCALARS
    | st.lists(_SCALARS, max_size=2)
    | st.dictionaries(st.text(max_size=3), _SCALARS, max_size=2),
)
def test_whatever_stands_in_a_field_it_is_merged_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[str, ...], value: Any
) -> None:
    row = lines.won()
    put(*path, value=value)(row)
    with Database(tmp_path_factory.mktemp("db") / "tuning.sqlite3") as db:
        try:
            merge(db, lines.text(row), "here")
        except MergeError:
            return
        assert len(texts(db)) == 1  # what was taken can be exported


def test_the_command_merges_files_and_databases(moetune: Run, db: Database, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite3"
    with Database(other) as source:
        merge(source, lines.text(*lines.stored()), "there")
    said = moetune(f"merge {other} {BEST}")
    assert (said.code, said.out.splitlines()[0]) == (0, f"{other}: 12 taken, 0 same, 0 kept")
    assert said.out.splitlines()[1].startswith(f"{BEST}: 0 taken")
    assert len(db.best()) == 12
    missing = moetune(f"merge {tmp_path / 'none.jsonl'}")
    assert (missing.code, missing.out) == (2, "")
    assert LineOutcome.TAKEN == "taken"
