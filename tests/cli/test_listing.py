"""What is known by name, what a database holds, and its trials: for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import CREATED, PROBLEM, TARGET, add_trial, add_winner
from tuner.cli.options import called, read_model
from tuner.problem import PRESETS, Problem
from tuner.store.database import Database
from tuner.store.migrations import MIGRATIONS

SMALL = "--hidden 64 --expert-dim 32 --experts 8 --top-k 2"
GRANITE = PRESETS["granite-3.0-1b-a400m"]


@pytest.fixture
def filled(database: Path) -> Path:
    with Database(database) as db:
        add_winner(db, 16)
        add_winner(db, 128)
        add_trial(db, 128, status="wrong", message="token 3", variant="k_a9")
        add_winner(db, 1, problem=GRANITE)
    return database


@pytest.mark.parametrize(
    "problem",
    [
        *PRESETS.values(),
        GRANITE.replace(dtype="bfloat16"),
        GRANITE.replace(weight_dtype="bfloat16"),
        PRESETS["deepseek-v3"].replace(num_experts=16, dtype="bfloat16"),
        PROBLEM,
        PROBLEM.replace(activation="relu", dtype="bfloat16", weight_dtype="float16"),
    ],
    ids=str,
)
def test_a_layer_is_called_by_what_makes_it(problem: Problem) -> None:
    name, options = called(problem)
    flags = shlex.split(options)
    given = {
        flag.removeprefix("--").replace("-", "_"): flags[2 * n + 1]
        for n, flag in enumerate(flags[::2])
    }
    numbers = {n: int(v) if v.isdigit() else v for n, v in given.items()}
    changes = {"num_experts" if n == "experts" else n: v for n, v in numbers.items()}
    assert read_model(name or None, changes).problem == problem


def test_a_layer_that_no_command_line_makes_has_no_name() -> None:
    assert called(PROBLEM.replace(score="sigmoid")) == ("", "")


def test_models_say_what_is_tuned_here_and_what_ships(filled: Path, moetune: Run) -> None:
    rows = json.loads(moetune("models --json").out)
    first = [row["model"] for row in rows if not row["options"]]
    assert first == list(PRESETS)
    by_name = {(row["model"], row["options"]): row for row in rows}
    granite = by_name[GRANITE.name, ""]
    assert granite["tuned_here"] == {"znver3": [1]}
    assert granite["shipped"]
    assert by_name["small", SMALL]["tuned_here"] == {"znver3": [16, 128]}
    said = moetune("models").out
    assert "znver3 16 to 128" in said
    assert GRANITE.name in said


def test_models_need_no_database_and_can_leave_out_what_ships(
    moetune: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    rows = json.loads(moetune("models --json").out)
    assert [row["model"] for row in rows] == list(PRESETS)
    assert not any(row["tuned_here"] or row["shipped"] for row in rows)
    assert not database.exists()


def test_a_list_of_what_a_database_holds(filled: Path, moetune: Run) -> None:
    (granite, small) = json.loads(moetune("list --json").out)
    assert (granite["model"], granite["tokens"]) == (GRANITE.name, [1])
    assert small == {
        "model": "small", "machine": "znver3", "load": "uniform", "tokens": [16, 128], "trials": 3,
        "winners": 2, "best_speed_up": 1.25, "newest": CREATED, "problem_id": PROBLEM.digest,
        "target_id": TARGET.digest,
    }  # fmt: skip
    first, *_ = moetune("list").out.splitlines()
    assert first.startswith(f"{filled}: ")
    assert first.endswith(
        f"schema {MIGRATIONS[-1].number}, 2 problems, 1 target, 4 trials, 3 winners"
    )
    assert [row["tokens"] for row in csv.DictReader(io.StringIO(moetune("list --csv").out))] == [
        "1", "16, 128",
    ]  # fmt: skip


def test_a_list_of_nothing_says_what_makes_something(moetune: Run, database: Path) -> None:
    said = moetune("list")
    assert said.out == f"{database}: not there yet; `moetune tune` or `moetune import` makes it\n"
    assert json.loads(moetune("list --json").out) == []


def test_trials_for_programs(filled: Path, moetune: Run) -> None:
    rows = json.loads(moetune(f"trials {SMALL} --json").out)
    with Database(filled, read_only=True) as db:
        assert rows == db.trial_rows(PROBLEM)
    text = moetune(f"trials {SMALL} --csv --tokens 128").out
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(row["status"], row["message"], row["is_winner"]) for row in table] == [
        ("ok", "", "True"), ("wrong", "token 3", "False"),
    ]  # fmt: skip
    assert len(json.loads(moetune(f"trials {SMALL} --status wrong --json").out)) == 1


def test_trials_for_people(filled: Path, moetune: Run) -> None:
    said = moetune(f"trials {SMALL} --md --machine znver3").out.splitlines()
    assert said[0].startswith("| workload | trial | date | status | measured |")
    assert len(said) == 5
    assert "1 us" in moetune(f"trials {SMALL}").out


@pytest.mark.parametrize("options", ["--tokens 7", "--load onehot", "--status timeout"])
def test_trials_that_are_not_there(options: str, filled: Path, moetune: Run) -> None:
    said = moetune(f"trials {SMALL} {options}")
    assert (said.code, said.out) == (2, "")
    assert f"{filled} has no such trial; `moetune list` says what it has" in said.err
