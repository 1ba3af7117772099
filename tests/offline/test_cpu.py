"""A job for this machine's own CPU, run by a Python that has NumPy and nothing else: no compiler or moetune."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tests.commands import Run
from tuner.offline import job as jobs
from tuner.offline import place as job_place
from tuner.offline.job import Job
from tuner.offline.tell import tell
from tuner.store.database import Database
from tuner.target import Target, detect, target

# The layer of tests.kernels.TINY, whose default other tests compile as well.
LAYER = "--hidden 48 --expert-dim 40 --experts 4 --top-k 2"


@pytest.fixture
def job(tmp_path: Path, moetune: Run) -> Path:
    """The folder of a job of two variants, with short races, and of one whose library is none."""
    said = moetune(f"tune {LAYER} --tokens 2 --trials 2 --target host --offline {tmp_path / 'job'}")
    assert said.code == 0, said.err
    made = jobs.read(tmp_path / "job")
    other = made.variant(made.default(2))
    name = other.name.replace("_m1_", "_m0_")
    broken = dataclasses.replace(other, name=name, file=f"programs/{name}.so")
    (tmp_path / "job" / broken.file).write_bytes(b"no library")
    variants = (*made.variants, broken)
    made = dataclasses.replace(made, variants=variants, trial_race_s=0.2, final_race_s=0.2)
    jobs.write(tmp_path / "job", made)
    return tmp_path / "job"


def bare_python(folder: Path) -> tuple[list[str], dict[str, str]]:
    """A Python whose packages are NumPy and ml_dtypes, on a PATH without programs; and its environment."""
    venv.create(folder / "venv", symlinks=True, with_pip=False)
    packages = folder / "packages"
    packages.mkdir()
    for name in ("numpy", "ml_dtypes"):
        found = importlib.util.find_spec(name)
        assert found is not None
        assert found.origin is not None
        for place in Path(found.origin).parents[1].glob(f"{name}*"):  # with numpy.libs
            (packages / place.name).symlink_to(place)
    python = str(folder / "venv" / "bin" / "python")
    return [python], {"PATH": str(packages), "PYTHONPATH": str(packages)}


def kill_after_first_trial(command: list[str], environment: dict[str, str], job: Path) -> None:
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not any(r["kind"] == "trial" for r in jobs.results(job, jobs.read(job)).lines):
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    child.kill()
    child.wait()


def keys(asked: Job, measured: Target) -> tuple[str, str]:
    return asked.layer.digest, measured.digest


@pytest.mark.compiler
@pytest.mark.timed
def test_without_a_compiler_killed_and_run_again(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python, environment = bare_python(tmp_path)
    command = [*python, str(job / "run.py")]
    for missing in ("tuner.cli", "optuna", "jinja2", "mojo", "max", "sqlite_utils"):
        found = subprocess.run(
            [*python, "-c", f"import {missing}"], env=environment, capture_output=True
        )
        assert found.returncode != 0, missing
    kill_after_first_trial(command, environment, job)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

    asked = jobs.read(job)
    lines = list(jobs.results(job, jobs.read(job)).lines)
    *sound, broken = asked.variants
    trials = [(r["variant"], r["status"]) for r in lines if r["kind"] == "trial"]
    assert sorted(trials) == sorted([*((v.name, "ok") for v in sound), (broken.name, "crash")])
    finals = [r for r in lines if r["kind"] == "final"]
    assert [len(r["samples"]) for r in finals] == [2, 2]
    assert all(len(r["twin"]) == len(r["samples"][0]) >= 15 for r in finals)

    monkeypatch.setattr(target, "find_mojo", lambda: None)
    with Database(tmp_path / "told.sqlite3") as db:
        told = tell(job, db)
        assert told.target == detect()
        assert dict(told.statuses) == {"ok": 2, "crash": 1}
        (crash,) = (
            t for t in db.trials(*keys(asked, told.target), 2, "uniform") if t.status == "crash"
        )
        assert "does not load" in crash.message
        (best,) = db.best(*keys(asked, told.target))
        assert (best["tokens"], best["temperature"]) == (2, "cold")
        assert 0 < best["ceiling_fraction"] < 5
        assert set(db.ceilings(told.target.digest)) >= {"fma", "read"}
        assert best["environment"]["toolchain"] == asked.environment["toolchain"]


@pytest.mark.compiler
def test_code_that_this_processor_lacks(job: Path) -> None:
    asked = jobs.read(job)
    key = {
        **asked.target,
        "features": [*asked.target["features"], "amx-avx512"],
        "arch": "diamondrapids",
    }
    jobs.write(job, dataclasses.replace(asked, target=key))
    done = subprocess.run([sys.executable, str(job / "run.py")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "code for diamondrapids needs amx-avx512, which is not here" in done.stderr
    assert list(jobs.results(job, jobs.read(job)).lines) == []


def test_weights_of_a_killed_job_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next job, which leaves those of a job that runs."""
    from tests.jobs import PROBLEM

    monkeypatch.setattr(job_place, "_MEMORY", tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException), job_place.folder(PROBLEM, 1) as left:
            os.write(writer, str(left).encode())
            signal.pause()
        os._exit(1)
    left = Path(os.read(reader, 1000).decode())
    with job_place.folder(PROBLEM, 1) as own:
        assert {left, own} <= set(tmp_path.iterdir())
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert left.is_dir()
    with job_place.folder(PROBLEM, 1) as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []
