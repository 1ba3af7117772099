"""Job folders: what is asked, what they hold, what is refused. No compiler, no GPU."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import tuner
from tests.commands import Run
from tests.jobs import CPU, CPU_DEVICE, PROBLEM, TIMING, made, timed
from tests.programs import PROBE
from tuner.errors import TargetError, TemplateError, UsageError
from tuner.offline import job as jobs
from tuner.offline.batch import Round
from tuner.offline.job import JobError
from tuner.offline.make import folder_bytes, machine, make_job
from tuner.offline.tell import tell
from tuner.problem.weights import Weights
from tuner.store.database import Database
from tuner.target import Target, named


def test_a_folder_holds_what_its_job_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, result = made(monkeypatch, tmp_path)
    folder = tmp_path / "job"
    assert [v.file for v in job.variants] == [f"programs/{v.name}.ptx" for v in job.variants]
    assert all((folder / v.file).is_file() for v in job.variants)
    assert {job.default(1), job.default(64)} <= {v.name for v in job.variants}
    assert job.layer == PROBLEM
    assert result.programs == len(job.variants)
    assert result.size_bytes == folder_bytes(folder)
    assert job.environment["toolchain"] == "Mojo of the test"
    assert (folder / job.probe).read_text() == PROBE
    assert (job.dense, (folder / job.dense).is_file()) == ("programs/dense.ptx", True)


def test_a_job_says_how_many_rows_a_tile_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = made(monkeypatch, tmp_path)
    assert [job.ragged(v.name) for v in job.variants] == [v.config["tile_n"] for v in job.variants]
    older = dataclasses.replace(job.variants[0], ragged=0)
    with pytest.raises(JobError, match=r"no rows of a tile; run it by its own run\.py"):
        dataclasses.replace(job, variants=(older,)).ragged(older.name)


def test_the_same_question_gives_the_same_variants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (made(monkeypatch, tmp_path / name)[0] for name in "ab")
    assert [v.name for v in first.variants] == [v.name for v in second.variants]


def test_what_does_not_compile_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, result = made(monkeypatch, tmp_path, tokens=(4096,), trials=12)
    assert result.failed == len(job.failed) == 1
    assert job.failed[0]["message"] == "error: too wide"
    assert job.failed[0]["variant"] not in {v.name for v in job.variants}


def test_the_size_is_capped_and_the_defaults_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = 0
    with pytest.raises(UsageError, match=r"default of 1 tokens has no program.*raise --most-mib"):
        made(monkeypatch, tmp_path, most_bytes=1)
    code = folder_bytes(tmp_path / "job")
    job, result = made(monkeypatch, tmp_path, tokens=(64,), most_bytes=code + 5000)
    assert [v.name for v in job.variants] == [job.default(64)]
    assert result.left_out == 3


def test_a_folder_for_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = made(monkeypatch, tmp_path, target=CPU)
    folder = tmp_path / "job"
    assert [v.file for v in job.variants] == [f"programs/{v.name}.so" for v in job.variants]
    assert (folder / job.probe).read_text() == "a probe"
    assert {v.pack for v in job.variants} == {"v16_p2_o1"}
    assert {v.config["workers"] for v in job.variants} == {0}
    assert not (folder / "code" / "tuner" / "cuda.py").exists()
    # What has no effect on a token count keeps no variant from being tried there.
    assert all(v.tokens == (1, 64) for v in job.variants)


def test_the_next_round_is_for_the_machine_that_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its caches, and without what it has tried."""
    job, _ = made(monkeypatch, tmp_path, tokens=(1,), target=CPU)
    folder = tmp_path / "job"
    found = dataclasses.replace(CPU, l3_bytes=60 << 20)
    jobs.append(folder, {**CPU_DEVICE, "target": {**found.key, "name": found.name}})
    for variant in job.variants:
        jobs.append(folder, {**timed(variant.name, 1, 1e5, 1e5), "timing": TIMING})
    with Database(tmp_path / "t.sqlite3") as db:
        assert machine(PROBLEM, CPU, db, None) == CPU
        tell(folder, db)
        elsewhere = dataclasses.replace(CPU, cores=2, l3_bytes=8 << 20)
        assert machine(PROBLEM, elsewhere, db, None) == found
        assert machine(PROBLEM, elsewhere, db, 16) == found
        assert machine(PROBLEM, elsewhere, db, 8).cores == 8
        older = dataclasses.replace(elsewhere, arch="x86-64-v4")
        assert machine(PROBLEM, older, db, None) == older
        asked = Round((1,), "uniform", 4, 0, "auto", 1 << 30)
        made_then = make_job(PROBLEM, elsewhere, db, asked, tmp_path / "next", lambda line: None)
    assert made_then.target == found
    again = {v.name for v in jobs.read(tmp_path / "next").variants}
    assert again & {v.name for v in job.variants} <= {job.default(1)}


@pytest.mark.parametrize("target", ["nvidia-h100", CPU])
def test_the_copied_code_stands_alone(
    target: Target | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, tmp_path, target=target)
    kind = target.kind if isinstance(target, Target) else "gpu"
    entries = f"tuner.offline.run, tuner.offline.trial, tuner.offline.{kind}"
    program = f"import sys, {entries}; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "job" / "code")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for heavy in (
        "click",
        "jinja2",
        "sqlite_utils",
        "tuner.codegen.compile",
        "tuner.store.database",
    ):
        assert f"'{heavy}'" not in done.stdout


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(monkeypatch, tmp_path)
    asked = Round((1,), "uniform", 2, 0, "auto", 1 << 30)
    wide = PROBLEM.replace(dtype="float32")
    with Database(tmp_path / "x.sqlite3") as db:
        traced = Round((1,), "trace:0123456789abcdef", 2, 0, "auto", 1 << 30)
        with pytest.raises(UsageError, match="a job folder takes none"):
            make_job(PROBLEM, named("nvidia-h100"), db, traced, tmp_path / "c", print)
        with pytest.raises(UsageError, match="holds a job already"):
            make_job(PROBLEM, named("nvidia-h100"), db, asked, tmp_path / "job", print)
        with pytest.raises(TemplateError, match="dtype=float32: template moe_gpu makes bfloat16"):
            make_job(wide, named("nvidia-h200"), db, asked, tmp_path / "c", print)
    with pytest.raises(JobError, match="no job"):
        jobs.read(tmp_path)
    (tmp_path / "job" / "job.json").write_text('{"format": 99}')
    with pytest.raises(JobError, match="format 99, not 2"):
        jobs.read(tmp_path / "job")


@pytest.mark.compiler
def test_a_gpu_is_not_measured_here(moetune: Run) -> None:
    said = moetune("tune qwen3-30b-a3b --dtype bfloat16 --target nvidia-h200")
    assert said.code == 2
    assert "add --offline DIR for a job folder" in said.err


def test_what_takes_cpus_alone_says_so(moetune: Run) -> None:
    said = moetune("bench granite-3.0-1b-a400m --target nvidia-h200 --tokens 1")
    assert said.code == 2
    assert "nvidia-h200: is a GPU" in said.err


def test_a_layer_on_a_gpu_needs_its_name() -> None:
    with pytest.raises(TargetError, match=r"tuner\.load without device= takes CPU targets alone"):
        tuner.load(PROBLEM, Weights.random(PROBLEM, seed=0), target=named("nvidia-h100"))
