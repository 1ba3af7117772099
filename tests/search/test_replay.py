"""Replay: a file answers as the trials did, and drives every sampler."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from tests import grids
from tuner.errors import DatabaseError
from tuner.search import replay
from tuner.search.search import Search
from tuner.search.strategies import STRATEGIES
from tuner.store import t4

VALID = list(grids.SPACE.points())


@pytest.fixture
def grid(tmp_path: Path) -> replay.Grid:
    return replay.load(grids.write(tmp_path / "synthetic.t4.json.gz"))


def test_a_file_gives_back_the_space_and_every_answer(grid: replay.Grid) -> None:
    assert grid.space == grids.SPACE
    assert len(grid.answers) == len(VALID)
    assert grid.missing == ()
    for config in VALID:
        answer = grid.answer(config)
        status, message = grids.status(config)
        assert (answer.status, answer.message) == (status, message)
        expected = pytest.approx(grids.ratio(config), abs=1e-6) if status == "ok" else None
        assert answer.ratio == expected


def test_failures_have_a_kind(grid: replay.Grid) -> None:
    kinds = {grid.answer(config).failure for config in VALID}
    assert kinds == {"", "build_timeout", "wrong"}


@pytest.mark.parametrize("sampler", [name for name in STRATEGIES if name != "gp"])
def test_every_sampler_ends_with_the_grid(tmp_path: Path, sampler: str) -> None:
    """All valid points are tried once, but those that a timeout of the compiler rules out."""
    wanted = {"rows": (2, 4, 12), "vectors": (1, 2), "unroll": (1, 4, 8), "layout": (0, 1)}
    grid = replay.load(grids.write(tmp_path / "g.t4.json", grids.SPACE.narrow(wanted)))
    steps = replay.run(grid, Search(grid.space, 0, sampler), 100)
    tried = [replay.key(grid.space, step.config) for step in steps]
    assert len(set(tried)) == len(tried)
    missing = set(grid.answers) - set(tried)
    assert all(grid.answers[key].failure == "build_timeout" for key in missing)
    assert len(missing) <= 3
    assert min(s.answer.ratio for s in steps if s.answer.ratio is not None) == grid.best


def test_the_same_seed_gives_the_same_trials(grid: replay.Grid) -> None:
    runs = [replay.run(grid, Search(grid.space, seed), 25) for seed in (3, 3)]
    assert runs[0] == runs[1]


def test_a_configuration_that_was_not_recorded_is_an_error(tmp_path: Path) -> None:
    content = t4.document(grids.rows()[:3], {"space": grids.SPACE.to_json()})
    t4.write(tmp_path / "cut.t4.json", content)
    cut = replay.load(tmp_path / "cut.t4.json")
    assert len(cut.missing) == len(VALID) - 3
    with pytest.raises(DatabaseError, match="is not in the recorded grid"):
        cut.answer(VALID[3])


@pytest.mark.parametrize(
    ("about", "rows", "message"),
    [
        ({}, 3, "holds no space"),
        ({"space": None}, 3, "holds no space"),
        ({"space": grids.SPACE.to_json()}, 0, "no configuration has a time"),
    ],
)
def test_a_file_that_cannot_be_replayed(
    tmp_path: Path, about: dict[str, object], rows: int, message: str
) -> None:
    t4.write(tmp_path / "x.t4.json", t4.document(grids.rows()[:rows], about))
    with pytest.raises(DatabaseError, match=message):
        replay.load(tmp_path / "x.t4.json")


def test_trials_to_come_near(grid: replay.Grid) -> None:
    ratios = [None, 9.0, grid.best * 1.06, grid.best * 1.04, grid.best]
    assert replay.trials_to(grid, ratios) == 4
    assert replay.trials_to(grid, ratios, within=0.1) == 3
    assert replay.trials_to(grid, ratios, within=0.0) == 5
    assert replay.trials_to(grid, ratios[:3]) is None


@pytest.mark.parametrize("seed", range(5))
def test_it_needs_few_trials_from_anywhere(grid: replay.Grid, seed: int) -> None:
    """Within 5 % in 40 trials, and in fewer than chance needs at the median."""
    good = sum(a.ratio is not None and a.ratio <= grid.best * 1.05 for a in grid.answers.values())
    by_chance = math.log(0.5) / math.log(1 - good / len(VALID))
    start = dataclasses.replace(grid.space, default=VALID[97 * seed + 11], starts=())
    steps = replay.run(grid, Search(start, seed), 40)
    needed = replay.trials_to(grid, [step.answer.ratio for step in steps])
    assert needed is not None
    assert needed < by_chance
