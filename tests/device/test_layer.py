"""The GPU layer on a GPU. Needs an NVIDIA driver, and mojo on the same machine.

Where the two are on different machines, `moetune tune --offline` and `run-job` verify the same cases.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tuner.offline import job as jobs
from tuner.offline import run
from tuner.offline.batch import Round
from tuner.offline.make import make_job
from tuner.problem import Problem
from tuner.store.database import Database
from tuner.target import named


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.compiler,
    pytest.mark.slow,
    pytest.mark.skipif(not has_driver(), reason="needs an NVIDIA driver"),
]

SMALL = {"hidden": 256, "expert_dim": 128, "dtype": "bfloat16"}
FORMS = {
    "olmoe-1b-7b": {},
    "gpt-oss-20b": {},
    "deepseek-v3": {"num_experts": 32, "shared_dim": 256},
    "classic-moe": {},
}


@pytest.mark.parametrize("name", FORMS)
def test_defaults_are_right(name: str, tmp_path: Path) -> None:
    problem = Problem.preset(name).replace(**SMALL, **FORMS[name])
    asked = Round((1, 40), "uniform", 1, 0, "auto", 1 << 30)
    with Database(tmp_path / "x.sqlite3") as db:
        make_job(problem, named("nvidia-h100"), db, asked, tmp_path / "job", print)
    run.run(tmp_path / "job", 600.0, print)
    trials = [
        r
        for r in jobs.results(tmp_path / "job", jobs.read(tmp_path / "job")).lines
        if r["kind"] == "trial"
    ]
    assert {r["status"] for r in trials} == {"ok"}, trials
