"""The runner's order of work, with a child that plays the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import DEVICE, made, timed
from tuner import job as jobs
from tuner import job_run
from tuner.job import Job

Answer = tuple[list[dict[str, Any]], tuple[str, str] | None]


class Device:
    """Answers like a trial's process; one variant crashes at 64 tokens, one takes too long."""

    def __init__(self, job: Job) -> None:
        self.job, self.asked = job, list[tuple[str, ...]]()
        defaults = set(job.defaults.values())
        self.crashes, self.hangs, *_ = [v.name for v in job.variants if v.name not in defaults]

    def child(self, folder: Path, data: Path, words: Sequence[str], limit_s: float) -> Answer:
        self.asked.append(tuple(words))
        if words[0] == "device":
            return [dict(DEVICE)], None
        if words[0] == "final":
            names = words[2].split(",")
            samples = [[100e3] * 5 for _ in names]
            return [
                {"kind": "final", "tokens": int(words[1]), "variants": names, "samples": samples}
            ], None
        counts = [int(t) for t in words[2].split(",")]
        if words[1] == self.hangs:
            return [], ("timeout", "not done within 60 s")
        done = [t for t in counts if not (words[1] == self.crashes and t == 64)]
        done = done[: counts.index(64)] if words[1] == self.crashes and 64 in counts else done
        failed = ("crash", "illegal address") if len(done) < len(counts) else None
        return [timed(words[1], t, 100e3, 100e3) for t in done], failed


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Device]:
    job, _ = made(monkeypatch, tmp_path, tokens=(1, 64, 256), trials=3)
    device = Device(job)
    monkeypatch.setattr(job_run, "_child", device.child)
    monkeypatch.setattr(job_run, "_prepare", lambda *arguments: None)
    monkeypatch.setattr(job_run, "_clocks", lambda: "")
    job_run.run(tmp_path / "job", 60.0, lambda line: None)
    return tmp_path / "job", device


def statuses(folder: Path, variant: str) -> dict[int, str]:
    return {
        r["tokens"]: r["status"]
        for r in jobs.results(folder)
        if r["kind"] == "trial" and r["variant"] == variant
    }


def test_a_crash_costs_one_count_and_the_rest_is_tried(ran: tuple[Path, Device]) -> None:
    folder, device = ran
    assert statuses(folder, device.crashes) == {1: "ok", 64: "crash", 256: "ok"}
    assert statuses(folder, device.hangs) == {1: "timeout", 64: "timeout", 256: "timeout"}


def test_defaults_first_and_finals_last(ran: tuple[Path, Device]) -> None:
    folder, device = ran
    defaults = set(device.job.defaults.values())
    trials = [words[1] for words in device.asked if words[0] == "trial"]
    assert set(trials[: len(defaults)]) == defaults
    finals = [r for r in jobs.results(folder) if r["kind"] == "final"]
    assert [f["tokens"] for f in finals] == [1, 1, 64, 64, 256, 256]
    assert all(f["variants"][0] == device.job.default(f["tokens"]) for f in finals)
    assert device.asked[0] == device.asked[-1] == ("device",)


def test_a_second_run_repeats_nothing(ran: tuple[Path, Device]) -> None:
    folder, device = ran
    device.asked.clear()
    job_run.run(folder, 60.0, lambda line: None)
    assert device.asked == [("device",), ("device",)]


def test_time_is_up(ran: tuple[Path, Device]) -> None:
    folder, _ = ran
    (folder / "results.jsonl").unlink()
    job_run.run(folder, 0.0, lambda line: None)
    assert [r["kind"] for r in jobs.results(folder)] == ["device", "device"]
