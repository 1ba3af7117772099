"""What a job folder's results become in the database; half a job as well."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.jobs import CPU, CPU_DEVICE, DEVICE, TIMING, made, timed
from tuner.errors import TargetError
from tuner.offline import job as jobs
from tuner.offline.job import Job
from tuner.offline.tell import tell
from tuner.space.variant import parse
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best
from tuner.target import named


def write(folder: Path, *lines: dict[str, Any]) -> None:
    for line in lines:
        jobs.append(folder, line)


def final(job: Job, tokens: int, other: str, ratio: float) -> dict[str, Any]:
    names = [job.default(tokens), other]
    return {
        "kind": "final",
        "tokens": tokens,
        "variants": names,
        "samples": [[100e3] * 20, [ratio * 100e3] * 20],
    }


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return made(monkeypatch, tmp_path)[0]


def others(job: Job) -> list[str]:
    return [v.name for v in job.variants if v.name not in job.defaults.values()]


def test_trials_and_winners(tmp_path: Path, job: Job) -> None:
    folder, (fast, *_) = tmp_path / "job", others(job)
    write(
        folder, DEVICE, timed(job.default(1), 1, 100e3, 100e3), timed(fast, 1, 80e3, 100e3),
        {"kind": "trial", "variant": job.default(64), "tokens": 64, "status": "wrong", "message": "T=1: bad"},
        final(job, 1, fast, 0.8), final(job, 1, fast, 0.81),
    )  # fmt: skip
    with Database(tmp_path / "t.sqlite3") as db:
        told = tell(folder, db)
        assert told.statuses == {"ok": 2, "wrong": 1}
        assert (told.recorded, told.target) == (3, named("nvidia-h100"))
        (cell,) = told.cells
        assert (cell.tokens, cell.winner, cell.default) == (1, fast, job.default(1))
        assert 0.79 < cell.ratio < 0.82
        (best,) = db.best()
        assert (best["variant"], best["is_default"], best["tokens"]) == (fast, False, 1)
        assert best["environment"]["name"] == DEVICE["name"]
        assert (best["ceiling"], best["environment"]["dense_gflop_s"]) == ("read", 7e5)
        limits = {name: row.value for name, row in db.ceilings(told.target.digest).items()}
        assert limits == {"copy": 3000.0, "read": 3100.0, "dense": 7e5}
        wrong = db.trials(job.layer.digest, told.target.digest, 64, "uniform")
        assert [(t.status, t.message) for t in wrong] == [("wrong", "T=1: bad")]
        assert export_best(db, tmp_path / "best.jsonl") == 1
    with Database(tmp_path / "again.sqlite3") as db:
        assert import_best(db, tmp_path / "best.jsonl") == 1


def test_a_job_is_told_as_far_as_it_got_and_no_row_twice(tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "job"
    write(folder, DEVICE, timed(job.default(1), 1, 100e3, 100e3))
    with (folder / "results.jsonl").open("a") as stream:
        stream.write('{"kind": "trial", "variant": "cut o')
    with Database(tmp_path / "t.sqlite3") as db:
        assert tell(folder, db).recorded == 1
        assert tell(folder, db).recorded == 0
        assert not db.best()


def test_a_gain_in_one_final_alone_is_no_winner(tmp_path: Path, job: Job) -> None:
    folder, (other, *_) = tmp_path / "job", others(job)
    write(
        folder, DEVICE, timed(job.default(1), 1, 100e3, 100e3), timed(other, 1, 80e3, 100e3),
        final(job, 1, other, 0.8), final(job, 1, other, 1.01),
    )  # fmt: skip
    with Database(tmp_path / "t.sqlite3") as db:
        assert [(c.winner, c.ratio) for c in tell(folder, db).cells] == [(job.default(1), 1.0)]
        assert db.best()[0]["is_default"]


def test_the_card_that_measured_gets_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moetune: Run
) -> None:
    job, _ = made(monkeypatch, tmp_path, target="nvidia-h200")
    folder = tmp_path / "job"
    write(folder, DEVICE, timed(job.default(1), 1, 100e3, 100e3))
    said = moetune(f"tell {folder}")
    assert said.code == 0
    assert "measured on nvidia-h100, asked for nvidia-h200" in said.out
    assert "trials: 1 ok; 1 new" in said.out


def test_nothing_measured_and_unknown_cards(tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "job"
    with Database(tmp_path / "t.sqlite3") as db:
        with pytest.raises(TargetError, match="no device has measured yet"):
            tell(folder, db)
        write(folder, {**DEVICE, "name": "Some Card"})
        with pytest.raises(TargetError, match="Some Card: no known card"):
            tell(folder, db)


@pytest.fixture
def xeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return made(monkeypatch, tmp_path, target=CPU)[0]


def test_a_cpu_s_rows_are_those_of_a_session(tmp_path: Path, xeon: Job, moetune: Run) -> None:
    """Its name, features, cores and caches are what its own machine found; the ceiling is what was probed."""
    folder, (fast, *_) = tmp_path / "job", others(xeon)
    found = dataclasses.replace(CPU, arch="emeraldrapids", l3_bytes=60 << 20)
    device = {**CPU_DEVICE, "target": {**found.key, "name": found.name}}
    twin = {"twin": [102e3] * 20, "timing": TIMING}
    write(
        folder, device, {**timed(xeon.default(1), 1, 100e3, 100e3), "timing": TIMING},
        {**timed(fast, 1, 80e3, 100e3), "timing": TIMING},
        {**timed(fast, 64, 120e3, 100e3), "timing": TIMING},
        {**final(xeon, 1, fast, 0.8), **twin}, {**final(xeon, 1, fast, 0.81), **twin},
        {**device, "read_gb_s": 220.0},
    )  # fmt: skip
    with Database(tmp_path / "t.sqlite3") as db:
        told = tell(folder, db)
        assert (told.target, told.target.name, told.recorded) == (found, "Some Xeon", 3)
        (best,) = db.best()
        assert (best["variant"], best["pack"], best["ceiling"]) == (fast, "v16_p2_o1", "read")
        assert best["ceiling_fraction"] == pytest.approx(1e7 / 200 / 80.5e3, rel=0.01)
        assert best["foreign_share"] == 0.01
        environment = {"cpu": "Some Xeon", "cores": 16, "python": "3.12.1", "read_limit": 220.0}
        assert environment.items() <= best["environment"].items()
        limits = {name: row.value for name, row in db.ceilings(found.digest).items()}
        assert limits == {"fma": 2000.0, "dot": 4000.0, "read": 220.0}
        (slow,) = db.trials(xeon.layer.digest, found.digest, 64, "uniform")
        assert (slow.status, slow.environment["probe_gb_s"]) == ("slow", 200.0)
        assert export_best(db, tmp_path / "best.jsonl") == 1
    said = moetune(f"tell {folder} --db {tmp_path / 'again.sqlite3'}")
    assert "measured on emeraldrapids, asked for sapphirerapids" in said.out


def test_a_gain_within_the_sentinel_s_noise_is_none(tmp_path: Path, xeon: Job) -> None:
    """A copy of the default was 4 % off: so may 3 % be."""
    folder, (fast, *_) = tmp_path / "job", others(xeon)
    lines = [{**timed(name, 1, 100e3, 100e3), "timing": TIMING} for name in (xeon.default(1), fast)]
    ends = {**final(xeon, 1, fast, 0.97), "twin": [96e3] * 20, "timing": TIMING}
    write(folder, CPU_DEVICE, *lines, ends)
    with Database(tmp_path / "t.sqlite3") as db:
        assert not tell(folder, db).cells  # one final is not enough
        write(folder, ends)
        (cell,) = tell(folder, db).cells
        assert (cell.winner, cell.ratio) == (xeon.default(1), 1.0)


def test_finalists_of_another_form_leave_the_default_behind(
    tmp_path: Path, xeon: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer keeps one packed form: where it is not the default's, the fastest of it runs, proven or not."""
    folder, (other, *_) = tmp_path / "job", others(xeon)
    monkeypatch.setattr(
        "tuner.offline.tell.parse",
        lambda name: dataclasses.replace(parse(name), pack=name[-1:]),
    )
    changed = other[:-1] + "1"
    job = dataclasses.replace(
        xeon,
        variants=tuple(
            dataclasses.replace(v, name=changed) if v.name == other else v for v in xeon.variants
        ),
    )
    jobs.write(folder, job)
    lines = [
        {**timed(name, 1, 100e3, 100e3), "timing": TIMING} for name in (job.default(1), changed)
    ]
    ends = {**final(job, 1, changed, 0.999), "twin": [100e3] * 20, "timing": TIMING}
    write(folder, CPU_DEVICE, *lines, ends, ends)
    with Database(tmp_path / "t.sqlite3") as db:
        assert [c.winner for c in tell(folder, db).cells] == [changed]
