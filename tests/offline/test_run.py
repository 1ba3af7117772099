"""The runner's order of work, with a child that plays the device; killed and started again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.jobs import CPU, CPU_DEVICE, DEVICE, TIMING, made, timed
from tuner.host import quota
from tuner.offline import cpu, run
from tuner.offline import job as jobs
from tuner.offline.job import Job, JobError
from tuner.problem import footprint

Answer = tuple[list[dict[str, Any]], tuple[str, str] | None]


class Device:
    """Answers like a trial's process; one variant crashes at 64 tokens, one takes too long."""

    def __init__(self, job: Job) -> None:
        self.job, self.asked = job, list[tuple[str, ...]]()
        defaults = set(job.defaults.values())
        self.crashes, self.hangs, *_ = [v.name for v in job.variants if v.name not in defaults]

    def child(
        self, folder: Path, job: Job, data: Path, words: Sequence[str], limit_s: float
    ) -> Answer:
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
    monkeypatch.setattr(run, "_child", device.child)
    monkeypatch.setattr(run, "_prepare", lambda *arguments: None)
    run.run(tmp_path / "job", 60.0, lambda line: None)
    return tmp_path / "job", device


def statuses(folder: Path, variant: str) -> dict[int, str]:
    return {
        r["tokens"]: r["status"]
        for r in jobs.results(folder, jobs.read(folder)).lines
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
    finals = [r for r in jobs.results(folder, jobs.read(folder)).lines if r["kind"] == "final"]
    assert [f["tokens"] for f in finals] == [1, 1, 64, 64, 256, 256]
    assert all(f["variants"][0] == device.job.default(f["tokens"]) for f in finals)
    assert device.asked[0] == device.asked[-1] == ("device",)


def test_a_second_run_repeats_nothing(ran: tuple[Path, Device]) -> None:
    folder, device = ran
    device.asked.clear()
    run.run(folder, 60.0, lambda line: None)
    assert device.asked == [("device",), ("device",)]


def test_time_is_up(ran: tuple[Path, Device]) -> None:
    folder, _ = ran
    (folder / "results.jsonl").unlink()
    run.run(folder, 0.0, lambda line: None)
    assert [r["kind"] for r in jobs.results(folder, jobs.read(folder)).lines] == [
        "device",
        "device",
    ]


class Cores:
    """A child that plays a CPU: it answers so many requests, then the runner is killed in the middle of one."""

    def __init__(self, most: int) -> None:
        self.most, self.asked = most, list[tuple[str, ...]]()
        self.device = dict(CPU_DEVICE)

    def child(
        self, folder: Path, job: Job, data: Path, words: Sequence[str], limit_s: float
    ) -> Answer:
        if len(self.asked) == self.most:
            raise KeyboardInterrupt
        self.asked.append(tuple(words))
        if words[0] == "device":
            return [self.device], None
        if words[0] == "final":
            names = words[2].split(",")
            samples = [[100e3] * 5 for _ in names]
            final = {
                "kind": "final",
                "tokens": int(words[1]),
                "variants": names,
                "samples": samples,
            }
            return [{**final, "twin": [100e3] * 5, "timing": TIMING}], None
        counts = [int(t) for t in words[2].split(",")]
        return [{**timed(words[1], t, 90e3, 100e3), "timing": TIMING} for t in counts], None


@pytest.fixture
def xeon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a job for a CPU, whose cores this machine seems to have."""
    made(monkeypatch, tmp_path, trials=3, target=CPU)
    monkeypatch.setattr(run, "_prepare", lambda *arguments: None)
    monkeypatch.setattr(cpu, "cores", lambda job: os.sched_getaffinity(0))
    return tmp_path / "job"


def keys(folder: Path) -> list[tuple[Any, ...]]:
    """What has a line, but for the device's."""
    lines = [r for r in jobs.results(folder, jobs.read(folder)).lines if r["kind"] != "device"]
    return [(r["kind"], r["tokens"], r.get("variant")) for r in lines]


def test_killed_at_any_moment_it_goes_on_from_there(
    xeon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Cores(most=1000)
    monkeypatch.setattr(run, "_child", whole.child)
    run.run(xeon, 60.0, lambda line: None)
    undisturbed = keys(xeon)
    assert len([k for k in undisturbed if k[0] == "final"]) == 4
    for most in range(len(whole.asked)):
        (xeon / "results.jsonl").unlink(missing_ok=True)
        first, second = Cores(most), Cores(most=1000)
        monkeypatch.setattr(run, "_child", first.child)
        with pytest.raises(KeyboardInterrupt):
            run.run(xeon, 60.0, lambda line: None)
        monkeypatch.setattr(run, "_child", second.child)
        run.run(xeon, 60.0, lambda line: None)
        assert keys(xeon) == undisturbed, most


def test_a_job_goes_on_where_it_was_begun(xeon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cores = Cores(most=2)
    monkeypatch.setattr(run, "_child", cores.child)
    with pytest.raises(KeyboardInterrupt):
        run.run(xeon, 60.0, lambda line: None)
    cores.most, cores.device = 1000, {**CPU_DEVICE, "name": "Another Xeon"}
    with pytest.raises(JobError, match="was begun on Some Xeon, this is Another Xeon"):
        run.run(xeon, 60.0, lambda line: None)


def test_too_few_cores_and_too_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(monkeypatch, tmp_path, target=CPU)
    monkeypatch.setattr(quota, "_CGROUPS", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    with pytest.raises(
        JobError, match="for 16 cores, this process may use 3; make it with --cores 3"
    ):
        run.run(tmp_path / "job", 60.0, lambda line: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(footprint, "available_bytes", lambda: 1 << 20)
    with pytest.raises(JobError, match=r"3 copies of the weights take .* GiB are free"):
        run.run(tmp_path / "job", 60.0, lambda line: None)


def test_finalists_read_one_packed_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another form than the default's only where it gains over all token counts together."""
    job, _ = made(monkeypatch, tmp_path, tokens=(1, 64), trials=4, target=CPU)
    default = job.default(1)
    other = next(v for v in job.variants if v.name not in job.defaults.values())
    changed = [dataclasses.replace(v, pack="other" if v is other else "own") for v in job.variants]
    job = dataclasses.replace(job, variants=tuple(changed))

    def results(at_1: float, at_64: float) -> list[dict[str, Any]]:
        lines = [timed(job.default(t), t, 100e3, 100e3) for t in (1, 64)]
        return [*lines, timed(other.name, 1, at_1, 100e3), timed(other.name, 64, at_64, 100e3)]

    assert run.finalists(job, 1, results(80e3, 110e3)) == [default, other.name]
    assert run.finalists(job, 1, results(80e3, 130e3)) == [default]
    assert run.finalists(job, 1, results(80e3, 130e3)[:3]) == [default]
