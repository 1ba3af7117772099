"""The whole chain on a small layer: tuned for real, killed half way, resumed, and run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, tokens, variant
from tuner import reference, tune
from tuner.bench_state import Timing
from tuner.benchmark import Race
from tuner.database import Database
from tuner.finals import choose_winner, joined
from tuner.target import detect
from tuner.weights import Weights

TOKENS = 24
TRIALS = 7
SESSION = f"""
import sys
from pathlib import Path
from tests.kernels import TINY
from tuner import tune
from tuner.database import Database
from tuner.finals import choose_winner, joined
from tuner.target import detect

with Database(Path(sys.argv[1])) as database:
    plan = tune.Plan(tokens=({TOKENS},), trials={TRIALS}, seed=3)
    tune.tune(TINY, detect(), database, plan, lambda p: print(p.stage, p.note, flush=True))
"""


def start(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-c", SESSION, str(path)],
        stdout=subprocess.PIPE, text=True, cwd=root, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip


def recorded(path: Path) -> list[tuple[str, str]]:
    with Database(path, read_only=True) as database:
        rows = database.trials(TINY.digest, detect().digest, TOKENS, "uniform")
        return [(row.variant, row.status) for row in rows]


def wait_for_trials(path: Path, count: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.exists() and len(recorded(path)) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {count} trials within two minutes")


@pytest.mark.compiler
def test_a_session_that_is_killed_goes_on_where_it_was(database: Path) -> None:
    with Database(database):
        pass
    first = start(database)
    wait_for_trials(database, 3)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    before = recorded(database)
    assert 3 <= len(before) < TRIALS

    second = start(database)
    assert second.wait(timeout=300) == 0
    after = recorded(database)
    assert after[: len(before)] == before
    assert len(after) == TRIALS
    assert len({name for name, _ in after}) == TRIALS
    assert before[0] == (variant(TINY).name, "ok")

    selection = tuner.best_config(TINY, TOKENS)
    assert selection.match == "exact"
    assert (selection.variant, "ok") in after
    weights = Weights.random(TINY, 9)
    x = tokens(TINY, TOKENS)
    layer = tuner.load(TINY, weights)
    assert layer.selection(TOKENS).variant == selection.variant
    right = reference.moe(TINY, weights.check(TINY), x)
    np.testing.assert_allclose(layer(x), right, atol=1e-5)


@pytest.mark.compiler
def test_another_run_of_the_same_command_adds_no_trial(database: Path) -> None:
    with Database(database) as db:
        plan = tune.Plan(tokens=(4,), trials=2)
        notes: list[tune.Progress] = []
        first = tune.tune(TINY, detect(), db, plan, notes.append)
        again = tune.tune(TINY, detect(), db, plan, notes.append)
        rows = db.trials(TINY.digest, detect().digest, 4, "uniform")
    assert len(rows) == 2
    assert first[0].statuses == again[0].statuses
    assert [n.stage for n in notes if n.stage in ("finals", "done")] == ["finals", "done"] * 2
    assert rows[0].environment["toolchain"].startswith("Mojo ")
    measured = rows[0].measurement
    assert measured is not None
    assert measured.sample_count >= 7
    assert measured.low_ns <= measured.median_ns <= measured.high_ns <= measured.p99_ns * 1.0001


@pytest.mark.compiler
def test_the_weights_are_cold_or_warm_as_asked(database: Path) -> None:
    found = []
    with Database(database) as db:
        for temperature in ("warm", "auto"):
            plan = tune.Plan(tokens=(4,), trials=1, temperature=temperature)
            found += tune.tune(TINY, detect(), db, plan, lambda progress: None)
        rows = db.trials(TINY.digest, detect().digest, 4, "uniform")
    assert [result.temperature for result in found] == ["warm", "cold"]
    assert [row.measurement.temperature for row in rows if row.measurement] == ["warm", "cold"]


def timing(*kernels: float) -> Timing:
    """A race in which kernel i takes kernels[i] ns, give or take one percent."""
    noise = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0, 0.995, 1.005, 1.0)
    times = tuple(
        tuple(round(1e6 * mean * noise[(n + 3 * i) % 10]) for n in range(10))
        for i, mean in enumerate(kernels)
    )
    return Timing(Race(times), 1.0, 1.0, "warm")


VARIANTS = [
    variant(TINY, changes)
    for changes in ({}, {"chunks": 4, "unroll": 2, "tile_rows": 8}, {"chunks": 4})
]


def test_the_surely_faster_one_wins() -> None:
    assert choose_winner([timing(1.0, 0.8, 1.2)] * 2, VARIANTS) == 1


def test_a_gain_within_the_noise_leaves_the_default() -> None:
    assert choose_winner([timing(1.0, 0.98, 0.975)] * 2, VARIANTS) == 0


def test_a_gain_in_one_process_alone_leaves_the_default() -> None:
    assert choose_winner([timing(1.0, 0.7, 1.2), timing(1.0, 1.05, 1.2)], VARIANTS) == 0


def test_a_tie_goes_to_the_variant_nearer_to_the_default() -> None:
    assert choose_winner([timing(1.0, 0.80, 0.801)] * 2, VARIANTS) == 2


def test_a_clear_second_does_not_win_by_being_simpler() -> None:
    assert choose_winner([timing(1.0, 0.80, 0.90)] * 2, VARIANTS) == 1


def test_races_are_joined_with_their_pairs() -> None:
    race = joined([timing(1.0, 0.5), timing(1.0, 2.0)]).race
    assert len(race.times_ns[0]) == len(race.times_ns[1]) == 20
    assert race.times_ns[1][0] < race.times_ns[0][0] < race.times_ns[1][10]
