"""Validate: a claim holds only if what was measured reaches it, and what was not measured is said."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tests.commands import Run
from tests.rows import TARGET, add_winner
from tuner.peers import validate
from tuner.peers.validate import CLASSIC, SERVING, Figure, count, rows, stored_elsewhere
from tuner.store.database import Database
from tuner.target import Target

GPU = dataclasses.replace(TARGET, kind="gpu", arch="sm_90a", name="H200", features=())


def of(key: str, value: float | None) -> bool | None:
    (row,) = [
        row for row in rows({key: Figure(value)}, {}) if row.claim == validate._CLAIMS[key][0]
    ]
    return row.holds


def test_a_claim_holds_when_its_figure_is_reached() -> None:
    assert [of("numpy", v) for v in (382.8, 382.9, 400.0, None)] == [False, True, True, None]
    assert [of("p95", v) for v in (47.37, 47.38)] == [True, False]  # a latency: less is better
    assert [of("scratch", v) for v in (19.9, 20.0)] == [False, True]


def test_every_claim_has_a_row_measured_or_not() -> None:
    found = rows({"numpy": Figure(2.0), "dense": Figure(8.0)}, {"tokens": "5 tokens/s (H200)"})
    assert len(found) == 10
    assert count(found) == {"hold": 1, "do not hold": 1, "not measured": 8}
    assert [row.stored for row in found if row.stored] == ["5 tokens/s (H200)"]
    assert {row.measured.how for row in found if row.holds is None} == {"not measured"}


def test_rows_of_accelerators_stand_beside(database: Path) -> None:
    with Database(database) as db:
        assert stored_elsewhere(db) == {}
        add_winner(db, 1024, problem=CLASSIC)  # of a CPU
        add_winner(db, 1000, problem=CLASSIC.replace(dtype="bfloat16"), target=GPU)
        add_winner(db, 16384, problem=SERVING, target=GPU)
        told = stored_elsewhere(db)
    assert told["tokens"] == f"{1000 / 900.25 * 1e9:,.0f} tokens/s (H200, bfloat16, T=1000)"
    assert told["serving"].endswith("tokens/s (H200, float32, T=16384)")
    assert told["p95"] == ""


def test_the_command_prints_claims_and_how(moetune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "numpy": Figure(2.5, 2.4, 2.6, "classic-moe at T=1"),
        "tokens": Figure(1e5, 1e5, 1e5),
    }

    def measure(target: Target, db: Database, report: validate.Report) -> dict[str, Figure]:
        return made

    monkeypatch.setattr(validate, "measure", measure)
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    said = moetune("validate")
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "speed over NumPy 382.9 2.5 [2.4, 2.6] times no" in lines
    assert "throughput 23.4 million 100,000 tokens/s no" in lines
    assert "speed over NumPy: classic-moe at T=1" in lines
    assert lines[-1] == "10 claims: 2 do not hold, 8 not measured"
    told = json.loads(moetune("validate --json").out)
    assert [row["holds"] for row in told["rows"]].count(False) == 2


@pytest.mark.slow
@pytest.mark.compiler
def test_it_measures_here(moetune: Run) -> None:
    told = json.loads(moetune("validate --json").out)
    assert all(
        row["measured"]["value"] is None or row["measured"]["value"] > 0 for row in told["rows"]
    )
