"""Drawings: the roof of the layer's own type, the trials of a search, and how many are lacking."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests import formula
from tests.rows import PROBLEM, TARGET, add_trial, winner_of
from tuner.problem import Problem
from tuner.report.drawings import Drawing, drawings, noise_floor
from tuner.report.overview import NothingThereError, Overview, overview
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import MeasurementRow
from tuner.target import Target
from tuner.tune.plan import Plan

PAIRS = dataclasses.replace(TARGET, features=(*TARGET.features, "avx512f", "avx512bf16"))
GPU = Target("nvidia", "sm_90a", (), 132, 0, 0, 0, kind="gpu", accelerator="nvidia-h200")
CEILINGS = {
    "fma": 235.0, "dot": 470.0, "read": 33.0, "copy": 4000.0, "dense": 770_000.0,
}  # fmt: skip


def seen(database: Path, problem: Problem, target: Target, **ceilings: float) -> Overview:
    """The overview of a winner that read 30 GB/s, 90 % of the bandwidth."""
    with Database(database) as db:
        trial = add_trial(db, problem=problem, target=target)
        row = MeasurementRow(
            median_ns=1000, low_ns=990, high_ns=1010, kind="final", ceiling="read",
            ceiling_fraction=0.9, gflop_s=60.0, gb_s=30.0,
        )  # fmt: skip
        db.record_measurement(trial.id or 0, row)
        told = {"gflop_s": 60.0, "gb_s": 30.0, "ceiling_fraction": 0.9}
        db.record_winner(winner_of(trial, median_ns=1000, **told))
        for name, value in ceilings.items():
            db.set_ceiling(target.digest, name, value, "GFLOP/s")
        return overview(db, problem, target)


def figure(view: Overview, title: str) -> Drawing:
    return next(drawing for drawing in drawings(view, ()) if drawing.title == title)


@pytest.mark.parametrize(
    ("dtype", "target", "roof"),
    [
        ("float32", PAIRS, "float32 FMA 235 GFLOP/s"),
        ("bfloat16", PAIRS, "bfloat16 dot products 470 GFLOP/s"),
        ("bfloat16", TARGET, "float32 FMA 235 GFLOP/s"),
        ("bfloat16", GPU, "dense products 770 TFLOP/s"),
    ],
)
def test_the_roof_is_that_of_the_layers_own_type(
    database: Path, dtype: str, target: Target, roof: str
) -> None:
    view = seen(database, PROBLEM.replace(dtype=dtype), target, **CEILINGS)
    drawn = figure(view, "Roofline")
    assert roof in drawn.svg
    assert drawn.svg.count("FLOP/s<") == 2  # the roof, and the axis
    assert drawn.says == "By tokens, of what was probed beside each: 128: 90 % of memory bandwidth."


def test_a_bandwidth_follows_from_a_share_of_it(database: Path) -> None:
    """Winners that ship without their machine's ceilings."""
    drawn = figure(seen(database, PROBLEM, GPU), "Roofline")
    assert "FLOP per byte (read 33 GB/s)" in drawn.svg
    assert drawn.says.endswith("The peak of this machine was not probed.")


@pytest.fixture
def searched(database: Path, tmp_path: Path) -> Overview:
    def ns(config: dict[str, int], workload: object) -> float:
        return 1e5 * (1 + 0.05 * abs(config["tile_rows"] - 10))

    with Database(database) as db:
        formula.Machine(tmp_path, ns).session(db, Plan((128,), trials=8))
        return overview(db, formula.PROBLEM, formula.TARGET)


def test_the_trials_of_a_search(searched: Overview) -> None:
    drawn = figure(searched, "Trials")
    assert "trial 1: the default against a copy of itself, 1.0" in drawn.svg
    for name in ("in the finals", "best so far", "the default against itself"):
        assert name in drawn.svg, name
    floor = noise_floor(searched)
    assert floor
    assert f"noise, {100 * floor:.1f} %" in drawn.svg


def test_it_says_how_many_trials_are_lacking(searched: Overview) -> None:
    timed = sum(row.measurement is not None for row in searched.trials)
    told = figure(searched, "Parameters")
    assert told.svg == ""
    assert f"{20 - timed} more are needed to tell which parameters matter" in told.says


def test_peers_are_lines_beside_the_winner(database: Path) -> None:
    view = seen(database, PROBLEM, TARGET)
    row = PeerTimeRow(
        problem_id=PROBLEM.digest, target_id=TARGET.digest, tokens=128, load="uniform",
        peer="torch", dtype="float32", median_ns=2000.0,
    )  # fmt: skip
    other = dataclasses.replace(row, load="onehot", peer="numpy")
    drawn = drawings(view, [row, other])[0]
    assert drawn.says.endswith("Beside it: torch.")
    assert "torch: 2 us at 128 tokens" in drawn.svg


def test_what_has_trials_and_no_winner_has_its_page(database: Path) -> None:
    with Database(database) as db:
        add_trial(db, 16)
        view = overview(db, PROBLEM, TARGET)
        with pytest.raises(NothingThereError, match="has no winner on znver4; run `moetune tune`"):
            overview(db, PROBLEM, formula.TARGET)
    assert (view.cells, view.winner, view.explanation.winner) == ((), None, None)
    assert [(one.tokens, one.load) for one in view.waiting] == [(16, "uniform")]
    assert (view.chosen.tokens, len(view.trials)) == (16, 1)
