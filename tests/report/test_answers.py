"""Answers: the sentences that a page says first."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests import formula
from tests.rows import CREATED, PROBLEM, TARGET, add_trial, winner_of
from tuner.report.answers import answers, of_ceiling
from tuner.report.machines import SideBySide
from tuner.report.overview import Overview, overview
from tuner.store.database import Database
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import MeasurementRow
from tuner.tune.plan import Plan

LATER = "2026-01-09T03:04:05+00:00"


def tuned(database: Path, *, ratio: float = 1.0, audit_ns: float | None = None) -> Overview:
    """A winner of 1 ms at 128 tokens, with an audit a week later."""
    with Database(database) as db:
        trial = add_trial(db)
        row = MeasurementRow(
            median_ns=1e6, low_ns=0.99e6, high_ns=1.01e6, kind="final", created=CREATED,
            samples=(1e6,), ceiling="read", ceiling_fraction=0.93, ratio=ratio,
        )  # fmt: skip
        db.record_measurement(trial.id or 0, row)
        if audit_ns:
            audit = dataclasses.replace(
                row, kind="audit", created=LATER, median_ns=audit_ns, low_ns=0.99 * audit_ns,
                high_ns=1.01 * audit_ns,
            )  # fmt: skip
            db.record_measurement(trial.id or 0, audit)
        won = {"median_ns": 1e6, "ceiling_fraction": 0.93, "is_default": ratio == 1.0}
        db.record_winner(winner_of(trial, ratio=ratio, ratio_high=ratio * 1.01, **won))
        return overview(db, PROBLEM, TARGET)


def said(view: Overview, *peers: PeerTimeRow) -> dict[str, str]:
    return {one.question: one.text for one in answers(view, peers, SideBySide((), ()))}


def test_a_winner_that_was_measured_once(database: Path) -> None:
    assert said(tuned(database, ratio=0.8)) == {
        "How fast is it?": "1 ms at 128 tokens, 93 % of memory bandwidth (load uniform).",
        "Is it faster than other libraries?": (
            "Not measured: no library has run beside it on this machine."
        ),
        "Which machine is faster?": "Only this machine was tuned for this layer.",
        "What did tuning gain?": (
            "In 1 of 1 workload something is faster than the default: "
            "at most 1.25x [1.24, 1.25] at 128 tokens, uniform."
        ),
        "Did it become slower?": "Not known: it was measured once, on 2026-01-02.",
    }


@pytest.mark.parametrize(
    ("audit_ns", "told"),
    [
        (1.1e6, "It is 10.0 % slower: 1 ms and then 1.1 ms at 128 tokens, on 2026-01-02 and 2026-01-09."),
        (0.8e6, "It is 20.0 % faster: 1 ms and then 800 us at 128 tokens, on 2026-01-02 and 2026-01-09."),
        (1.005e6, "Not that it shows: the intervals of 2026-01-02 and 2026-01-09 overlap."),
    ],
)  # fmt: skip
def test_two_dates_say_whether_it_became_slower(database: Path, audit_ns: float, told: str) -> None:
    assert said(tuned(database, audit_ns=audit_ns))["Did it become slower?"] == told


def test_a_default_that_won_gained_nothing(database: Path) -> None:
    told = said(tuned(database))["What did tuning gain?"]
    assert told == "Nothing: no variant was surely faster than the template's default."


def test_a_session_says_its_noise(database: Path, tmp_path: Path) -> None:
    """A copy of the default that is 20 % slower: nothing below that is told."""
    machine = formula.Machine(tmp_path, lambda config, workload: 1e5)
    machine.copy_factor = 1.2
    with Database(database) as db:
        machine.session(db, Plan((128,), trials=3))
        view = overview(db, formula.PROBLEM, formula.TARGET)
    told = said(view)["What did tuning gain?"]
    assert told.startswith(
        "Nothing: no variant was surely faster than the template's default; at 128 "
    )
    assert re.search(r"the noise floor was [12]\d\.\d %\.$", told)


def test_libraries_are_told_apart_or_not(database: Path) -> None:
    view = tuned(database)
    torch = PeerTimeRow(
        problem_id=PROBLEM.digest, target_id=TARGET.digest, tokens=1, load="uniform", peer="torch",
        version="2.13", dtype="float32", median_ns=2e6, ours_ns=1e6, ratio=2.0, ratio_low=1.9,
        ratio_high=2.1,
    )  # fmt: skip
    near = dataclasses.replace(torch, tokens=128, ratio=1.01, ratio_low=0.98, ratio_high=1.04)
    other = dataclasses.replace(torch, peer="numpy", version="", ratio=0.5, ratio_low=0.4,
                                ratio_high=0.6)  # fmt: skip
    alone = dataclasses.replace(torch, peer="alone", ratio=None, ratio_low=None, ratio_high=None)
    told = said(view, torch, near, other, alone)["Is it faster than other libraries?"]
    assert told == (
        "1.01 to 2.00 times as fast as torch 2.13: surely faster in 1 of 2 workloads. "
        "0.50 times as fast as numpy: surely faster in 0 of 1 workload, surely slower in 1."
    )


def test_shares_are_named_by_what_they_are_of() -> None:
    assert of_ceiling("copy", 0.5) == "50 % of memory bandwidth"
    assert of_ceiling("dot", 0.5) == "50 % of peak FLOP/s"
    assert of_ceiling("", 0.5) == of_ceiling("fma", None) == ""
