"""The winners that ship serve where the user has none, below his own on each rung, and say so."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import add_trial, winner_of
from tuner.bundle import table
from tuner.problem import Problem
from tuner.select.select import Selection, best_config
from tuner.store import shipped
from tuner.store.database import Database
from tuner.target import Target

# One of the file, whatever it holds: a winner on a CPU.
ROW = next(row for row in shipped.winners() if row["target"]["kind"] == "cpu")
PROBLEM = Problem.from_key(ROW["problem"], name=ROW["problem_name"])
MACHINE = Target.from_key(ROW["target"])
TOKENS = ROW["tokens"]
COMPILER = ROW["environment"]["toolchain"]


def ask(tokens: int = TOKENS, target: Target = MACHINE, db: Path | None = None) -> Selection:
    return best_config(PROBLEM, tokens, target=target, db=db, compiler=COMPILER)


def own(path: Path, tokens: int, target: Target = MACHINE) -> None:
    """A winner of the user's own, of a variant that the template has."""
    with Database(path) as db:
        made = {"problem": PROBLEM, "target": target, "compiler": COMPILER}
        db.record_winner(winner_of(add_trial(db, tokens, variant="k_own", **made)))


@pytest.mark.parametrize("there", [False, True], ids=["no database", "an empty one"])
def test_they_serve_where_nothing_was_tuned(there: bool, tmp_path: Path) -> None:
    path = tmp_path / "own.sqlite3"
    if there:
        Database(path).close()
    found = ask(db=path if there else None)
    assert (found.variant, found.match, found.source) == (ROW["variant"], "exact", "shipped")
    assert found.reason == "shipped winner tuned on this target: same tokens and load"
    assert found.evidence["median_ns"] == ROW["median_ns"]
    assert found.to_json()["source"] == "shipped"


def test_another_machine_says_what_differs() -> None:
    found = ask(target=dataclasses.replace(MACHINE, l2_bytes=512 << 10))
    assert (found.match, found.source) == ("arch", "shipped")
    assert found.reason.startswith("shipped winner tuned on another machine of architecture ")


@pytest.mark.parametrize(("times", "source"), [(2, "shipped"), (4, "default")])
def test_a_machine_with_many_more_cores_gets_the_default(times: int, source: str) -> None:
    """What is right for a few cores may leave most of many idle, and nobody asked for it."""
    found = ask(target=dataclasses.replace(MACHINE, cores=times * MACHINE.cores))
    assert found.source == source
    assert source == "shipped" or f"was tuned on {MACHINE.cores} cores, here are" in found.reason


def test_an_own_winner_comes_first_on_a_rung_however_far(database: Path) -> None:
    own(database, TOKENS)
    assert (ask().variant, ask().source) == ("k_own", "database")
    near = ask(2 * TOKENS)
    assert (near.match, near.source, near.variant) == ("tokens", "database", "k_own")


def test_a_rung_above_comes_first_whoever_tuned_it(database: Path) -> None:
    own(database, TOKENS, dataclasses.replace(MACHINE, cores=64))
    found = ask()
    assert (found.match, found.source) == ("exact", "shipped")


def test_they_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    assert (ask().match, ask().source) == ("default", "default")


def test_a_bundle_is_built_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "none.sqlite3"
    choice = table.choose(PROBLEM, MACHINE, db)
    assert (choice.tuned, choice.shipped) == (True, True)
    assert {row.tokens for row in choice.evidence} <= {
        row["tokens"] for row in shipped.winners(PROBLEM) if row["arch"] == MACHINE.arch
    }
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    assert not table.choose(PROBLEM, MACHINE, db).tuned


def test_a_bundle_of_own_winners_is_not_called_shipped(database: Path) -> None:
    own(database, TOKENS)
    choice = table.choose(PROBLEM, MACHINE, database)
    assert (choice.tuned, choice.shipped) == (True, False)


def test_the_commands_say_so(moetune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("best", "explain"):
        monkeypatch.setattr(f"tuner.cli.commands.{module}.named", lambda _: MACHINE)
    monkeypatch.setattr("tuner.select.select._installed_compiler", lambda: COMPILER)
    name = PROBLEM.name.removesuffix("-bfloat16")
    options = f"{name} --dtype {PROBLEM.dtype} --tokens {TOKENS}"
    assert "source    moetune brings it; " in moetune(f"best {options}").out
    said = moetune(f"explain {options}")
    assert said.code == 0, said.err
    assert "source      moetune brings it: shipped winner tuned on this target" in said.out
    assert ROW["variant"] in said.out
    assert json.loads(moetune(f"explain {options} --json").out)["source"] == "shipped"


def test_reading_them_takes_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    shipped._by_problem.cache_clear()
    assert shipped.winners(PROBLEM)
