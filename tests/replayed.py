"""A whole tuning session on a recorded grid, in a process of its own that can be killed at any stage.

Everything is real but two: the compiler is a script that copies the source to its output, and the
kernels are the answers of a grid. The measuring process is one, and so are cache and database.
Nothing is measured, so nothing here says how fast anything is.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.formula import PROBLEM, TARGET
from tests.recorded import GRID, STATE, Recorded, Spinning
from tuner.measure.worker import Worker
from tuner.problem import Problem
from tuner.space import space
from tuner.store import t4
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow
from tuner.target import Target
from tuner.tune import run
from tuner.tune.builder import Cores
from tuner.tune.plan import Plan
from tuner.tune.result import TuneResult

TOKENS = 24
TRIALS = 14
PLAN = Plan(tokens=(TOKENS,), trials=TRIALS, seed=2)
SPACE = space.resolve(space.load("moe_cpu"), PROBLEM, TARGET, TOKENS).narrow(
    {
        "tile_rows": (2, 4, 6, 8, 10, 12, 14),
        "simd_width": (8, 16),
        "chunks": (1, 2, 4),
        "prefetch": (0, 16),
    }
)


def ratio(config: Mapping[str, int]) -> float:
    """A valley with its floor at 8 rows, 4 chunks, no prefetch."""
    loss = 0.03 * abs(config["tile_rows"] - 8) + 0.04 * abs(config["chunks"] - 4)
    return 0.7 + loss + 0.1 * (config["prefetch"] > 0) + 0.3 * (config["simd_width"] != 16)


def status(config: Mapping[str, int]) -> str:
    return "wrong" if config["tile_rows"] == 10 else "ok"


def write_grid(path: Path) -> Path:
    """The grid as a file that `tuner.search.replay` reads."""
    default = ratio(SPACE.default)
    rows = [_row(config, ratio(config) / default) for config in SPACE.points()]
    t4.write(path, t4.document(rows, {"space": SPACE.to_json()}))
    return path


def _row(config: dict[str, int], value: float) -> TrialRow:
    measured = MeasurementRow(
        median_ns=1e6 * value, low_ns=1e6 * value, high_ns=1e6 * value, samples=(1e6 * value,),
        ratio=value, ratio_low=value, ratio_high=value, gflop_s=1.0,
    )  # fmt: skip
    state = status(config)
    return TrialRow(
        target_id="", problem_id="", variant_id="", tokens=TOKENS, load="uniform", status=state,
        created="2026-01-02T03:04:05+00:00", config=config,
        measurements=(measured,) if state == "ok" else (),
    )  # fmt: skip


def install(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Puts the two stand-ins in their places; returns a file for what else the compiler should do.

    That is shell: $1 is the output, $2 the source.
    """
    script, act = folder / "mojo", folder / "act"
    act.write_text("")
    script.write_text(
        f"""#!/bin/sh
if [ "$1" = --version ]; then echo "Mojo 9.9"; exit; fi
out=; last=; for word; do [ "$last" = -o ] && out=$word; last=$word; done
set -- "$out" "$last"
. {act}
cp "$2" "$1"
"""
    )
    script.chmod(0o755)
    patch.setattr("tuner.host.toolchain.find_mojo", lambda: script)
    patch.setattr("tuner.target.target.find_mojo", lambda: None)
    # As on a machine of TARGET's cores: with some to spare, builds would go ahead of what is measured.
    patch.setattr(run, "split_cores", lambda wanted: Cores(frozenset(range(wanted)), frozenset()))
    patch.setattr(space, "resolve", lambda file, problem, target, tokens: SPACE)
    patch.setenv(GRID, str(write_grid(folder / "grid.t4.json")))

    patch.setattr(run, "Worker", Inside)
    return act


def real_worker(
    problem: Problem, target: Target, seed: int, cores: frozenset[int] | None = None
) -> Worker:
    """A measuring process that can crash and hang."""
    return Worker(problem, target, seed, STATE, cores)


class Inside:
    """The same answers in this process, which takes half a second less to start."""

    STATE = Recorded

    def __init__(
        self, problem: Problem, target: Target, seed: int, cores: frozenset[int] | None = None
    ) -> None:
        self._state = self.STATE(problem, target, seed)
        self.ceilings, self.verify = self._state.ceilings, self._state.verify
        self.race = self._state.race

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None: ...

    def stop(self) -> None: ...


class InsideSpinning(Inside):
    """Loops in place of kernels, timed in this process."""

    STATE = Spinning


def session(database: Path, plan: Plan = PLAN) -> TuneResult:
    """A session in this process, to its end."""
    with Database(database) as db:
        return run.tune(PROBLEM, TARGET, db, plan, lambda progress: None)


def ended(*bodies: Callable[[], Any], timeout_s: float = 60.0) -> list[int]:
    """Runs things in processes of their own at the same time: their exit codes, negative where a
    signal ended one."""
    children = [multiprocessing.get_context("fork").Process(target=body) for body in bodies]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout_s)
        if child.is_alive():
            child.kill()
            raise AssertionError(f"still running after {timeout_s:g} s")
    return [child.exitcode or 0 for child in children]


def rows(database: Path) -> list[TrialRow]:
    with Database(database, read_only=True) as db:
        return db.trials(PROBLEM.digest, TARGET.digest, TOKENS, "uniform")
