"""Results that were cut or damaged: the line is named and left out, and nothing else is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.commands import Run
from tests.jobs import CPU, CPU_DEVICE, DEVICE, TIMING, made, timed
from tests.properties import tried
from tuner.errors import MoetuneError
from tuner.offline import job as jobs
from tuner.offline.job import Job, JobError
from tuner.offline.tell import tell
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best

CREATED = "2026-11-30T00:00:00+00:00"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    return made(monkeypatch, tmp_path)[0]


def fastest(job: Job) -> str:
    return next(v.name for v in job.variants if v.name not in job.defaults.values())


def final(job: Job) -> dict[str, Any]:
    names, samples = [job.default(1), fastest(job)], [[100e3] * 20, [80e3] * 20]
    return {"kind": "final", "tokens": 1, "variants": names, "samples": samples}


def trials(job: Job) -> list[dict[str, Any]]:
    return [DEVICE, timed(job.default(1), 1, 1e5, 1e5), timed(fastest(job), 1, 8e4, 1e5)]


def text(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps({"created": CREATED, **line}).encode() + b"\n" for line in lines)


# What stands in a line of its own, and a part of what is said of it.
LINES = [
    (b"5", "is no object"),
    (b"null", "is no object"),
    (b"[1]", "is no object"),
    (b"[" * 100_000, "nested deeper"),
    (b"\xff\xfe", "is not UTF-8"),
    (b'{"a": 1}', "kind is None"),
    (b'{"kind": ["trial"]}', "kind is"),
    (b'{"kind": "device", "kind": "device"}', "stands twice"),
    (b'{"created": "2026-11-30T00:00:00+00:00", "kind": "dev', ""),
    (text({**DEVICE, "driver": -1}).rstrip(), "driver is -1"),
]
# What is changed in a sound line of the finals or of a trial, and a part of what is said of it.
FINALS = [
    ({"samples": [[float("nan")] * 20, [8e4] * 20]}, "holds NaN"),
    ({"samples": [[1e5] * 20, [float("inf")] * 20]}, "holds Infinity"),
    ({"samples": [[1e5] * 20, [0.0] * 20]}, "a sample is 0.0"),
    ({"samples": [[1e5] * 20, [-5.0] * 20]}, "a sample is -5.0"),
    ({"samples": [[1e5] * 20, [True] * 20]}, "a sample is True"),
    ({"samples": [[], []]}, "has no samples"),
    ({"samples": [[1e5] * 20, [8e4] * 3]}, "not as many"),
    ({"samples": [[1e5] * 20]}, "has samples of 1 variants"),
    ({"samples": 5}, "samples is 5"),
    ({"tokens": 777}, "tokens is 777"),
    ({"tokens": "1"}, "tokens is '1'"),
    ({"tokens": True}, "tokens is True"),
    ({"created": "yesterday"}, "created: is 'yesterday'"),
    ({"twin": [1e5] * 3}, "not as many"),
    ({"timing": {}}, "lacks flops"),
    ({"timing": {**TIMING, "temperature": "hot"}}, "temperature is 'hot'"),
    ({"timing": {**TIMING, "probe_gb_s": ["fast"]}}, "probe_gb_s must be rates"),
]
TRIALS = [
    ({"variant": "nope"}, "variant 'nope' is none of the job's"),
    ({"variant": None}, "variant is None"),
    ({"status": "great"}, "status is 'great'"),
    ({"status": "wrong", "message": "\ud800"}, "half of a surrogate pair"),
    ({"status": "wrong", "message": 5}, "message is 5"),
    ({"verify_ms": "long"}, "verify_ms is 'long'"),
    ({"samples": None}, "has no samples"),
    ({"tokens": 10**30}, "more than 64 bits"),
]


def damaged_line(case: tuple[Any, str], job: Job) -> bytes:
    change, _ = case
    if isinstance(change, bytes):
        return change + b"\n"
    of = final(job) if case in FINALS else timed(job.default(64), 64, 1e5, 1e5)
    return text({**of, **change})


def test_each_damaged_line_is_named_and_no_other_lost(tmp_path: Path, job: Job) -> None:
    cases = [
        *LINES,
        *FINALS,
        *TRIALS,
        ({**final(job), "variants": [job.default(1), "nope"]}, "nope"),
    ]
    for number, case in enumerate(cases):
        content = text(*trials(job)) + damaged_line(case, job) + text(final(job), final(job))
        (tmp_path / "job" / "results.jsonl").write_bytes(content)
        with Database(tmp_path / f"{number}.sqlite3") as db:
            told = tell(tmp_path / "job", db)
        assert [c.winner for c in told.cells] == [fastest(job)], case
        (named,) = told.left_out
        assert "results.jsonl: line 4 is left out: " in named
        assert case[1] in named


def test_a_run_after_a_cut_line_loses_nothing(tmp_path: Path, job: Job) -> None:
    folder = tmp_path / "job"
    (folder / "results.jsonl").write_bytes(text(DEVICE)[:40])
    for line in [*trials(job), final(job), final(job)]:
        jobs.append(folder, line)
    with Database(tmp_path / "t.sqlite3") as db:
        told = tell(folder, db)
    assert (len(told.cells), told.recorded, len(told.left_out)) == (1, 2, 1)


def test_finals_whose_trial_was_lost(tmp_path: Path, job: Job) -> None:
    """They need its row; the next run tries it again."""
    device, default, fast = trials(job)
    content = text(device, default) + text(fast)[:50] + b"\n" + text(final(job), final(job))
    (tmp_path / "job" / "results.jsonl").write_bytes(content)
    with Database(tmp_path / "t.sqlite3") as db:
        told = tell(tmp_path / "job", db)
    assert (told.cells, told.recorded) == ((), 1)
    cut, finals = told.left_out
    assert "line 3" in cut
    assert f"no trial of {fastest(job)} is in the results; run the job again" in finals


def test_results_of_two_devices(tmp_path: Path, job: Job) -> None:
    content = text(*trials(job), {**DEVICE, "name": "NVIDIA H200"}, final(job), final(job))
    (tmp_path / "job" / "results.jsonl").write_bytes(content)
    with (
        Database(tmp_path / "t.sqlite3") as db,
        pytest.raises(JobError, match=r"of several devices .NVIDIA H100 80GB HBM3, NVIDIA H200"),
    ):
        tell(tmp_path / "job", db)


def test_results_that_cannot_be_read(tmp_path: Path, job: Job) -> None:
    (tmp_path / "job" / "results.jsonl").mkdir()
    with pytest.raises(JobError, match="cannot be read"):
        jobs.results(tmp_path / "job", job)
    with pytest.raises(JobError, match="cannot be written"):
        jobs.append(tmp_path / "job", DEVICE)


@pytest.mark.parametrize(
    "damage",
    [{"tokens": 5}, {"tokens": ["1"]}, {"seed": "x"}, {"defaults": {}}, {"problem": {}}, {"target": 3},
     {"target": {"kind": "cpu"}}, {"variants": [5]}, {"failed": [5]}, {"failed": [{"variant": 3}]},
     {"load": "odd"}, {"unknown": 1}, {"trial_race_s": "1"}],
)  # fmt: skip
def test_a_damaged_job(tmp_path: Path, job: Job, damage: dict[str, Any]) -> None:
    path = tmp_path / "job" / "job.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    with pytest.raises(JobError, match=r"job\.json: no job"):
        jobs.read(tmp_path / "job")


def test_the_command_names_what_it_leaves_out(tmp_path: Path, job: Job, moetune: Run) -> None:
    (tmp_path / "job" / "results.jsonl").write_bytes(b"\x1b[31m\n" + text(*trials(job)))
    said = moetune(f"tell {tmp_path / 'job'}")
    assert said.code == 0
    assert "results.jsonl: line 1 is left out: " in said.err
    assert "trials: 2 ok; 2 new" in said.out


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
)  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Path, Job]]]:
    """A job for a card, and one for a CPU."""
    with pytest.MonkeyPatch.context() as patch:
        folders = [tmp_path_factory.mktemp(name) for name in ("card", "cpu")]
        targets = zip(folders, ("nvidia-h100", CPU), strict=True)
        yield [(folder, made(patch, folder, target=target)[0]) for folder, target in targets]


def everything(job: Job) -> list[dict[str, Any]]:
    """Lines of each kind, each with a time."""
    device, *others = [*trials(job), final(job), final(job)]
    if job.kind == "cpu":
        device, others = CPU_DEVICE, [{**line, "timing": TIMING} for line in others]
    return [{"created": CREATED, **line} for line in (device, *others)]


@given(data=st.data())
@pytest.mark.fuzz
@tried(200)
def test_whatever_stands_there(
    data: st.DataObject, both: list[tuple[Path, Job]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any field of any line is anything: it is told, or it is recorded and travels."""
    folder, job = data.draw(st.sampled_from(both))
    lines = everything(job)
    line = data.draw(st.sampled_from(lines))
    line[data.draw(st.sampled_from(sorted(line)))] = data.draw(VALUES)
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "job" / "results.jsonl").write_text(content)
    new = tmp_path_factory.mktemp("new")
    with Database(new / "a.sqlite3") as db, Database(new / "b.sqlite3") as other:
        try:
            tell(folder / "job", db)
        except MoetuneError:
            return
        count = export_best(db, folder / "best.jsonl")
        assert import_best(other, folder / "best.jsonl") == count
