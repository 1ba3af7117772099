"""A second kernel is two files: with examples/kernel beside moe_cpu, and no other file touched, it is tuned
against moe_cpu, selected, bundled and loaded.

Other additions: ``tests/problem/test_dtypes.py`` (a data type), ``tests/problem/test_hf_config.py`` (a model
type), ``tests/search/test_strategies.py`` (a strategy), ``tests/peers/test_peers.py`` (a peer).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.commands import Run
from tests.formula import PROBLEM, TARGET, Machine
from tests.toys import beside
from tuner.errors import TemplateError, UsageError
from tuner.measure import reference
from tuner.select.select import best_config
from tuner.space import templates
from tuner.space.variant import default_variant, parse, serving
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
