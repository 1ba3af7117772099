"""What a job folder's results become in the database; half a job as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.jobs import DEVICE, made, timed
from tuner import job as jobs
from tuner.database import Database
from tuner.errors import TargetError
from tuner.exchange import export_best, import_best
from tuner.job import Job
from tuner.target import named
from tuner.tell import tell


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
    job, _ = made(monkeypatch, tmp_path, card="nvidia-h200")
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
