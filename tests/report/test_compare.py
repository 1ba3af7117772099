"""Two sides, workload by workload: what a side may be, who is compared with whom, and what decides."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.rows import PROBLEM, TARGET, add_trial, winner_of
from tuner.report.compare import ComparedVerdict, compare
from tuner.report.sides import Standing
from tuner.store.database import Database
from tuner.store.jsonl import export_best
from tuner.store.records import MeasurementRow
from tuner.target import Target

OLD, NEW = "2026-01-02T03:04:05+00:00", "2026-02-03T04:05:06+00:00"
ZEN4 = dataclasses.replace(TARGET, arch="znver4", cores=8)


def standing(ns: float, **more: Any) -> Standing:
    """A time, known to two percent."""
    made = Standing(
        problem_id="p", problem="small", tokens=128, load="uniform", target_id="t", machine="znver3",
        variant="k", temperature="cold", median_ns=ns, low_ns=0.98 * ns, high_ns=1.02 * ns, created=OLD,
    )  # fmt: skip
    return dataclasses.replace(made, **more)


def won(db: Database, ns: float, created: str = OLD, tokens: int = 128, **more: Any) -> int:
    """A winner, measured in finals to two percent."""
    trial = add_trial(db, tokens, created=created, **more)
    assert trial.id is not None
    times = {"median_ns": ns, "low_ns": 0.98 * ns, "high_ns": 1.02 * ns}
    db.record_measurement(
        trial.id, MeasurementRow(kind="final", samples=(ns,), ratio=0.8, created=created, **times)
    )
    db.record_winner(winner_of(trial, median_ns=ns, created=created))
    return trial.id


@pytest.mark.parametrize(
    ("ns", "verdict"),
    [(900.0, "faster"), (970.0, "not decided"), (1000.5, "not decided"), (1100.0, "slower")],
)
def test_only_an_interval_that_excludes_1_decides(ns: float, verdict: str) -> None:
    (one,) = compare([standing(1000.0)], [standing(ns)])
    assert one.verdict == verdict
    assert one.speed == pytest.approx(1000 / ns)
    assert (one.speed_low, one.speed_high) == (
        pytest.approx(980 / (1.02 * ns)), pytest.approx(1020 / (0.98 * ns)),
    )  # fmt: skip


def test_what_cannot_be_compared() -> None:
    a = [standing(1000.0), standing(1000.0, tokens=1), standing(1000.0, tokens=2)]
    b = [standing(1000.0), standing(500.0, tokens=1, temperature="warm"), standing(9.0, tokens=3)]
    found = {one.place.tokens: one.verdict for one in compare(a, b)}
    assert found == {
        128: ComparedVerdict.SAME,
        1: ComparedVerdict.UNLIKE,
        2: ComparedVerdict.ONLY_A,
        3: ComparedVerdict.ONLY_B,
    }


def test_a_machine_is_compared_with_itself_else_with_the_one_of_the_other_side() -> None:
    here, there = standing(1000.0), standing(500.0, target_id="u", machine="znver4")
    (apart,) = compare([here], [there])
    assert (apart.a, apart.b, apart.verdict) == (here, there, "faster")
    later = standing(1500.0, created=NEW)
    pairs = {(one.a, one.b) for one in compare([here, there], [later])}
    assert pairs == {(here, later), (there, None)}


@pytest.fixture
def filled(database: Path) -> Path:
    """A machine measured twice, the second time slower, and a faster machine; one more workload on it."""
    with Database(database) as db:
        won(db, 1000.0)
        won(db, 1200.0, NEW)
        won(db, 500.0, target=ZEN4)
        won(db, 50.0, target=ZEN4, tokens=1)
    return database


def exported(database: Path, path: Path) -> Path:
    with Database(database, read_only=True) as db:
        export_best(db, path)
    return path


def verdicts(said: Any) -> dict[int, str]:
    return {row["tokens"]: row["verdict"] for row in json.loads(said.out)}


@pytest.mark.parametrize(
    ("sides", "code", "found"),
    [
        ("znver3 znver4", 0, {128: "faster", 1: "only in B"}),
        ("znver4 znver3", 1, {128: "slower", 1: "only in A"}),
        ("2026-01-31@znver3 x", 2, None),
        ("{text} {db}", 0, {1: "same measurement", 128: "same measurement"}),
        ("{text}@znver3 {db}@znver4", 0, {128: "faster", 1: "only in B"}),
    ],
)
def test_sides_and_exit_codes(
    sides: str, code: int, found: Any, filled: Path, moetune: Run, tmp_path: Path
) -> None:
    text = exported(filled, tmp_path / "best.jsonl")
    said = moetune(f"compare {sides.format(text=text, db=filled)} --json")
    assert said.code == code, said.err
    assert (verdicts(said) if said.out else None) == found


def test_dates_and_versions_are_sides(database: Path, moetune: Run) -> None:
    with Database(database) as db:
        won(db, 1000.0, environment={"moetune": "0.1.0", "toolchain": "Mojo 1.0"})
        won(db, 1200.0, NEW, environment={"moetune": "0.2.0", "toolchain": "Mojo 1.1"})
    for sides in (
        "2026-01-31 2026-02-28",
        "version:0.1.0 version:0.2.0",
        "compiler:1.0 compiler:1.1",
    ):
        said = moetune(f"compare {sides} --json")
        assert (said.code, verdicts(said)) == (1, {128: "slower"}), sides
    assert moetune("compare 2025-01-01 2026-02-28").code == 2


def test_a_machine_that_is_not_there_is_told_with_those_that_are(
    filled: Path, moetune: Run
) -> None:
    said = moetune("compare znver3 znver5")
    assert said.code == 2
    assert f"is neither a file, a date nor a machine of {filled}; did you mean" in said.err
    assert "machines: znver3, znver4" in said.err


def test_without_a_workload_in_common(filled: Path, moetune: Run) -> None:
    said = moetune("compare shipped znver3")
    assert said.code == 2
    assert "have no workload in common" in said.err
    assert moetune("compare znver3 znver4 --model other").code == 2


def test_forms(filled: Path, moetune: Run) -> None:
    table = moetune("compare znver3 znver4").out.splitlines()
    (line,) = (line for line in table if line.startswith("    128 "))
    assert line.split()[1:6] == ["uniform", "znver3,", "znver4", "1.2", "us"]
    assert (table[0], table[-1]) == ("small", "B beside A: 1 faster, 1 only in B")
    (row, other) = csv.DictReader(io.StringIO(moetune("compare znver3 znver4 --csv").out))
    assert {row["b_machine"], other["b_machine"]} == {"znver4"}
    markdown = moetune("compare znver3 znver4 --md --model small").out.splitlines()
    assert markdown[0] == "| model | tokens | load | machines | A | B | B's speed / A's | verdict |"
    assert markdown[1].count("---:") == 4


def test_the_history_of_a_cell(
    database: Path, moetune: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two dates of one cell: the finals, and an audit a week later."""
    monkeypatch.setattr("tuner.cli.commands.trials.detect", lambda: TARGET)
    with Database(database) as db:
        number = won(db, 1000.0)
        audit = MeasurementRow(
            kind="audit", samples=(1.0,), median_ns=1100.0, low_ns=1090.0, high_ns=1110.0,
            ratio=0.9, created=NEW,
        )  # fmt: skip
        db.record_measurement(number, audit)
    options = "--hidden 64 --expert-dim 32 --experts 8 --top-k 2 --tokens 128"
    said = moetune(f"history {options}")
    assert said.code == 0, said.err
    assert [line.split()[2] for line in said.out.splitlines() if line[1:5] == "2026"] == [
        "finals",
        "audit",
    ]
    assert said.out.splitlines()[-1] == f"1.10 times slower since {OLD}: the intervals lie apart"
    rows = json.loads(moetune(f"history {options} --machine znver3 --json").out)
    assert [(row["created"], row["median_ns"]) for row in rows] == [(OLD, 1000.0), (NEW, 1100.0)]
    assert rows[0]["target_id"] == TARGET.digest
    other = moetune(f"history {options.replace('128', '1')}")
    assert other.code == 2
    assert "has no measured winner of 1 tokens, load uniform, on host" in other.err


def test_machines_are_named_by_the_start_of_their_id(filled: Path, moetune: Run) -> None:
    assert moetune(f"compare {TARGET.digest[:8]} {ZEN4.digest} --json").code == 0
    assert Target.from_key(ZEN4.key).digest != TARGET.digest
    assert PROBLEM.name == "small"
