"""The whole chain on a small layer: tuned for real, killed half way, resumed, and run."""

from __future__ import annotations

import dataclasses
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
from tuner.measure import reference
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload
from tuner.store.database import Database
from tuner.target import detect
from tuner.tune import run
from tuner.tune.builder import split_cores
from tuner.tune.plan import Plan, Progress

pytestmark = [pytest.mark.compiler, pytest.mark.timed]

TOKENS = 24
TRIALS = 7
SESSION = f"""
import sys
from pathlib import Path
from tests.kernels import TINY
from tuner.tune import run as tune
from tuner.store.database import Database
from tuner.tune.plan import Plan
from tuner.target.target import detect

with Database(Path(sys.argv[1])) as database:
    plan = Plan(tokens=({TOKENS},), trials={TRIALS}, seed=3)
    tune.tune(TINY, detect(), database, plan, lambda p: print(p.stage, p.note, flush=True))
"""


def start(path: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", SESSION, str(path)],
        stdout=subprocess.PIPE, text=True, cwd=root, env=dict(os.environ), start_new_session=True,
    )  # fmt: skip


def recorded(path: Path) -> list[tuple[str, str]]:
    with Database(path, read_only=True) as database:
        rows = database.trials(TINY.digest, detect().digest, TOKENS, "uniform")
        return [(row.variant, row.status) for row in rows]


def wait_for_trials(path: Path, count: int) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end:
        if path.exists() and len(recorded(path)) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {count} trials within five minutes")


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


def test_another_run_of_the_same_command_adds_no_trial(database: Path) -> None:
    with Database(database) as db:
        plan = Plan(tokens=(4,), trials=2)
        notes: list[Progress] = []
        first = run.tune(TINY, detect(), db, plan, notes.append)
        again = run.tune(TINY, detect(), db, plan, notes.append)
        rows = db.trials(TINY.digest, detect().digest, 4, "uniform")
    assert len(rows) == 2
    assert first.cells[0].statuses == again.cells[0].statuses
    stages = [n.stage for n in notes if n.stage in ("finals", "done")]
    # Beside other processes the only candidate may be told slow, and then nobody is left to race.
    finals = ["finals"] * 2 if [row.status for row in rows] == ["ok", "ok"] else []
    assert stages == [*finals, "done"] * 2
    assert rows[0].environment["toolchain"].startswith("Mojo ")
    measured = rows[0].measurement
    assert measured is not None
    assert measured.sample_count >= 7
    # Of seven samples the interval is their range, and its end above the 99th percentile.
    assert measured.low_ns <= measured.median_ns <= measured.high_ns <= max(measured.samples)
    assert measured.median_ns <= measured.p99_ns <= max(measured.samples)


def test_the_weights_are_cold_or_warm_as_asked(database: Path) -> None:
    found = []
    with Database(database) as db:
        for temperature in ("warm", "auto"):
            plan = Plan(tokens=(4,), trials=1, temperature=temperature)
            found += run.tune(TINY, detect(), db, plan, lambda progress: None).cells
        rows = db.trials(TINY.digest, detect().digest, 4, "uniform")
    assert [result.temperature for result in found] == ["warm", "cold"]
    assert [row.measurement.temperature for row in rows if row.measurement] == ["warm", "cold"]


def test_a_matrix_of_workloads_ships_two_variants(database: Path, cache: Path) -> None:
    plan = Plan(
        tokens=(2, 24), loads=("uniform", "zipf:1.2"), trials=3, keep=2, held_out=(Workload(8),)
    )
    with Database(database) as db:
        result = run.tune(TINY, detect(), db, plan, lambda progress: None)
        rows = db.best(TINY.digest)
    assert len(result.kept) <= 2
    assert {(row["tokens"], row["load"]): row["variant"] for row in rows} == {
        (cell.workload.tokens, cell.workload.load): cell.winner for cell in result.cells
    }
    assert all(cell.ratio_low <= 1.0 <= cell.regret for cell in result.cells)
    assert result.held_out[0].winner in result.kept
    assert 0 < result.pace.compiled <= result.pace.judged
    weights = Weights.random(TINY, 9)
    x = tokens(TINY, 24)
    layer = tuner.load(TINY, weights, load="zipf:1.2")
    right = reference.moe(TINY, weights.check(TINY), x)
    np.testing.assert_allclose(layer(x), right, atol=1e-5)


def test_builds_run_ahead_where_a_core_is_spare(database: Path) -> None:
    target = dataclasses.replace(detect(), cores=1)
    if len(os.sched_getaffinity(0)) < 2 or not split_cores(1).spare:
        pytest.skip("this machine has no second core")
    with Database(database) as db:
        plan = Plan(tokens=(4,), trials=4)
        result = run.tune(TINY, target, db, plan, lambda progress: None)
        rows = db.trials(TINY.digest, target.digest, 4, "uniform")
    assert sum(result.cells[0].statuses.values()) == len(rows) == 4
    assert all(row.config["workers"] == 0 for row in rows)
