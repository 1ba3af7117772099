"""A second kernel is two files: with examples/kernel beside moe_cpu, and no other file touched, it is tuned
against moe_cpu, selected, bundled and loaded.

Other additions: ``tests/problem/test_dtypes.py`` (a data type), ``tests/problem/test_hf_config.py`` (a model
type), ``tests/search/test_strategies.py`` (a strategy), ``tests/peers/test_peers.py`` (a peer).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.commands import Run
from tests.formula import PROBLEM, TARGET, Machine
from tests.toys import beside
from tuner.errors import SpaceError, TemplateError, UsageError
from tuner.measure import reference, trial
from tuner.problem.workload import Workload
from tuner.select.select import best_config
from tuner.space import templates
from tuner.space.variant import default_variant, make, parse, serving
from tuner.store.database import Database
from tuner.target import detect
from tuner.tune.plan import Plan

EXAMPLE = Path(__file__).parents[2] / "examples" / "kernel"
TOY = "moe_plain"
LAYER = tuner.Problem(hidden=48, expert_dim=40, num_experts=4, top_k=2)
WORDS = "--hidden 48 --expert-dim 40 --experts 4 --top-k 2"


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Path]:
    """The two files alone in a folder of their own, which MOETUNE_TEMPLATES names."""
    folder = tmp_path / "kernels"
    shutil.copytree(EXAMPLE, folder)
    assert sorted(path.name for path in folder.iterdir()) == [f"{TOY}.mojo.j2", f"{TOY}.toml"]
    with beside(folder):
        yield folder


def machine(folder: Path, toys_ns: float) -> Machine:
    """A machine on which the toy's kernels take so long, and those of moe_cpu 1 ms."""
    return Machine(folder, lambda config, workload: toys_ns if "chains" in config else 1e6)


def tried(db: Database, tokens: int) -> set[str]:
    rows = db.trials(PROBLEM.digest, TARGET.digest, tokens, "uniform")
    assert all(row.status in ("ok", "slow") for row in rows)
    return {row.template for row in rows}


def test_the_default_is_the_other_ones(toy: Path) -> None:
    assert [file.template for file in serving(PROBLEM, TARGET)] == ["moe_cpu", TOY]
    assert default_variant(PROBLEM, TARGET, tokens=16).template == "moe_cpu"


@pytest.mark.parametrize(("toys_ns", "winner"), [(0.7e6, TOY), (3e6, "moe_cpu")])
def test_the_template_is_one_more_thing_that_is_searched(
    toy: Path, tmp_path: Path, toys_ns: float, winner: str
) -> None:
    with Database(tmp_path / "db.sqlite3") as db:
        result = machine(tmp_path, toys_ns).session(db, Plan(tokens=(16, 256), trials=16))
        assert tried(db, 16) == {"moe_cpu", TOY}
        assert {parse(cell.default).template for cell in result.cells} == {"moe_cpu"}
        assert {parse(cell.winner).template for cell in result.cells} == {winner}
        found = best_config(PROBLEM, 16, target=TARGET, db=db, compiler="")
        assert (found.template, found.match) == (winner, "exact")


def test_one_far_behind_gets_few_trials(toy: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "db.sqlite3") as db:
        machine(tmp_path, 3e6).session(db, Plan(tokens=(16,), trials=24))
        rows = db.trials(PROBLEM.digest, TARGET.digest, 16, "uniform")
    assert 1 <= sum(row.template == TOY for row in rows) <= 3


def test_a_session_can_be_held_to_one(toy: Path, tmp_path: Path) -> None:
    with Database(tmp_path / "db.sqlite3") as db:
        plan = Plan(tokens=(16,), trials=6, template=TOY)
        result = machine(tmp_path, 3e6).session(db, plan)
        assert tried(db, 16) == {TOY}
        assert parse(result.cells[0].default).template == TOY


def test_one_that_does_not_serve(toy: Path, tmp_path: Path) -> None:
    with (
        Database(tmp_path / "db.sqlite3") as db,
        pytest.raises(UsageError, match=f"moe_gpu: does not serve this .*; use moe_cpu, {TOY}"),
    ):
        machine(tmp_path, 1e6).session(db, Plan(tokens=(16,), trials=6, template="moe_gpu"))


def test_a_layer_that_only_one_serves(toy: Path) -> None:
    shared = PROBLEM.replace(shared_dim=128)
    assert [file.template for file in serving(shared, TARGET)] == ["moe_cpu"]
    halves = PROBLEM.replace(dtype="bfloat16")
    assert [file.template for file in serving(halves, TARGET)] == ["moe_cpu"]


def test_names_are_those_of_one_file(toy: Path) -> None:
    shutil.copy(toy / f"{TOY}.toml", toy / "moe_cpu.toml")
    with (
        beside(toy),
        pytest.raises(TemplateError, match=r"moe_cpu\.toml has this name already"),
    ):
        templates.names()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with (
        beside(tmp_path / "none"),
        pytest.raises(TemplateError, match=r"MOETUNE_TEMPLATES=.*none: is no folder"),
    ):
        templates.names()


def test_ratios_to_another_default_are_no_knowledge(toy: Path, tmp_path: Path) -> None:
    """Held to the toy, trials are relative to its default, which takes three times that of moe_cpu."""

    def ns(config: dict[str, int], workload: Workload) -> float:
        return 4e6 / config["chains"] if "chains" in config else 0.7e6

    with Database(tmp_path / "db.sqlite3") as db:
        plan = Plan(tokens=(16,), trials=5)
        Machine(tmp_path, ns).session(db, dataclasses.replace(plan, template=TOY))
        (cell,) = Machine(tmp_path, ns).session(db, plan).cells
        assert parse(cell.winner).template == "moe_cpu"
        rows = db.trials(PROBLEM.digest, TARGET.digest, 16, "uniform")
    to = {(row.template, parse(row.environment["base"]).template) for row in rows}
    assert {(TOY, TOY), ("moe_cpu", "moe_cpu")} <= to


def test_a_template_of_which_another_settled_the_form_can_be_pinned(
    toy: Path, tmp_path: Path
) -> None:
    with Database(tmp_path / "db.sqlite3") as db:
        machine(tmp_path, 3e6).session(db, Plan(tokens=(16,), trials=5))
        (cell,) = (
            machine(tmp_path, 3e6).session(db, Plan(tokens=(16,), trials=4, template=TOY)).cells
        )
        assert parse(cell.winner).template == TOY


def test_winners_and_trials_of_a_template_that_is_gone(tmp_path: Path) -> None:
    with Database(tmp_path / "db.sqlite3") as db:
        with beside(EXAMPLE):
            machine(tmp_path, 0.7e6).session(db, Plan(tokens=(16,), trials=12))
        asked: dict[str, Any] = {"target": TARGET, "db": db, "compiler": ""}
        assert f"template {TOY} is not installed here" in best_config(PROBLEM, 16, **asked).reason
        found = best_config(PROBLEM, 16, **asked, installed=True)
        assert (found.template, found.match) == ("moe_cpu", "default")
        (cell,) = machine(tmp_path, 0.7e6).session(db, Plan(tokens=(16,), trials=12)).cells
        assert parse(cell.winner).template == "moe_cpu"


def test_one_that_does_not_render_is_a_failed_trial(toy: Path, tmp_path: Path) -> None:
    source = toy / f"{TOY}.mojo.j2"
    source.write_text(source.read_text() + "{{ nothere }}\n")
    (built,) = trial.build_all(
        PROBLEM, TARGET, [make(TOY, {"simd_width": 4, "chains": 1, "workers": 0})]
    )
    assert (built.status, built.binary) == ("compile", None)
    assert "'nothere' is undefined" in built.message


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "default = 2",
            "default = 3",
            r"moe_plain\.toml:\d+: parameters\.chains\.default: default 3 is not",
        ),
        ('dtype = ["float32"]', "dtype = []", r"supports\.dtype: must be a list of names"),
        ('dtype = ["float32"]', 'dtypes = ["float32"]', r"supports\.dtypes: is not known"),
        ('kind = ["cpu"]', 'kind = ["gpux"]', r"supports\.kind: must be of cpu, gpu"),
        ('kind = ["cpu"]', 'kind = ["gpu"]', "is no binary for kind gpu"),
        ("priority = -1", "priority = true", r"interface\.priority: must be a int"),
        ("default = 2", "default = 2\nwhen = 3", r"chains\.when: must be a str"),
    ],
)
def test_what_is_wrong_in_a_space_is_told_with_its_line(
    toy: Path, tmp_path: Path, before: str, after: str, message: str
) -> None:
    path = toy / f"{TOY}.toml"
    path.write_text(path.read_text().replace(before, after))
    with Database(tmp_path / "db.sqlite3") as db, pytest.raises(SpaceError, match=message):
        machine(tmp_path, 1e6).session(db, Plan(tokens=(16,), trials=3))


@pytest.mark.compiler
def test_the_whole_chain(toy: Path, tmp_path: Path, moetune: Run) -> None:
    """Rendered, compiled, verified and raced beside moe_cpu; kept, bundled, loaded, and right."""
    db, file = tmp_path / "db.sqlite3", tmp_path / "toy.moe"
    both = moetune(f"tune {WORDS} --tokens 4 --trials 4 --db {tmp_path / 'both.sqlite3'}")
    assert both.code == 0, both.err
    with Database(tmp_path / "both.sqlite3") as found:
        rows = found.trials(LAYER.digest, detect().digest, 4, "uniform")
    assert {row.template for row in rows} == {"moe_cpu", TOY}
    assert {row.status for row in rows} <= {"ok", "slow"}

    said = moetune(f"tune {WORDS} --tokens 4 --trials 2 --template {TOY} --db {db}")
    assert said.code == 0, said.err
    assert f" {TOY}_v" in moetune(f"best {WORDS} --tokens 4 --db {db}").out
    built = moetune(f"bundle build {WORDS} --db {db} -o {file}")
    assert built.code == 0, built.err

    weights = tuner.Weights.random(LAYER, seed=3)
    x = np.random.default_rng(5).standard_normal((4, LAYER.hidden), dtype=np.float32)
    right = reference.moe(LAYER, weights, x)
    for layer in (tuner.load(LAYER, weights, db), tuner.load(file, weights, trust="unsigned")):
        assert layer.selection(4).template == TOY
        np.testing.assert_allclose(layer(x), right, rtol=1e-4, atol=1e-5)
