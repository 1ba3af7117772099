"""Explain: a database filled by hand, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.rows import PROBLEM, TARGET, winner_of
from tuner.errors import DatabaseError
from tuner.problem.workload import Workload
from tuner.report.explain import Account, Explanation, explain
from tuner.report.importance import LEAST_TRIALS
from tuner.store.database import Database
from tuner.store.jsonl import export_best, import_best
from tuner.store.records import MeasurementRow, SessionRow, TrialRow
from tuner.target import Target

DEFAULT = {"a": 1, "b": 4, "c": 0}
CEILINGS = {"fma": (500.0, "GFLOP/s"), "read": (50.0, "GB/s")}


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        target_id = opened.add_target(TARGET)
        for name, (value, unit) in CEILINGS.items():
            opened.set_ceiling(target_id, name, value, unit)
        yield opened


class Search:
    """Records the trials of one workload, a second apart."""

    def __init__(self, db: Database, target: Target = TARGET, tokens: int = 16) -> None:
        self.db, self.target, self.tokens = db, target, tokens
        self.seconds = 0

    def tried(self, ratio: float | None = None, status: str = "ok", message: str = "", *,
              environment: dict[str, Any] | None = None, **changes: int) -> TrialRow:  # fmt: skip
        config = {**DEFAULT, **changes}
        name = "_".join(f"{key}{value}" for key, value in config.items())
        row = TrialRow(
            target_id=self.db.add_target(self.target), problem_id=self.db.add_problem(PROBLEM),
            variant_id=self.db.add_variant(f"id-{name}", "k", f"k_{name}", config, "p1"),
            tokens=self.tokens, load="uniform", status=status, message=message, session="s1",
            compile_ms=2000.0, verify_ms=500.0, benchmark_ms=1000.0 if ratio else None,
            environment={"toolchain": "Mojo 1", "template": "t1", **(environment or {})},
            created=f"2026-01-02T03:04:{self.seconds:02d}+00:00",
        )  # fmt: skip
        self.seconds += 1
        return self.db.trial(self.db.record_trial(row, measured("trial", ratio) if ratio else None))

    def won(self, winner: TrialRow, default: TrialRow, ratio: float) -> None:
        assert winner.id is not None
        assert default.id is not None
        self.db.record_measurement(winner.id, measured("final", ratio))
        self.db.record_measurement(default.id, measured("final", 1.0))
        self.db.record_winner(
            winner_of(
                winner, default_trial_id=default.id, ratio=ratio, ratio_low=ratio - 0.01,
                ratio_high=ratio + 0.01, is_default=winner.id == default.id, gflop_s=120.0,
                gb_s=40.0, ceiling_fraction=0.75,
            )
        )  # fmt: skip


def measured(kind: str, ratio: float) -> MeasurementRow:
    return MeasurementRow(
        median_ns=1000 * ratio, low_ns=990 * ratio, high_ns=1010 * ratio, kind=kind, ceiling="read",
        sample_count=40, ratio=ratio, ratio_low=0.98 * ratio, ratio_high=1.02 * ratio,
        ceiling_fraction=0.75,
    )  # fmt: skip


def searched(db: Database) -> Explanation:
    """Seven trials: the winner is the fourth, two of its neighbours lost and one failed."""
    search = Search(db)
    default = search.tried(1.0)
    search.tried(0.9, b=8)
    search.tried(status="wrong", message="y: not finite", a=2, b=8, c=1)
    winner = search.tried(0.8, a=2, b=8)
    search.tried(0.95, a=4, b=8)
    search.tried(0.97, a=2)
    search.tried(1.3, status="slow", c=1)
    search.won(winner, default, 0.81)
    return explain(PROBLEM, Workload(16), TARGET, db)


def test_how_the_winner_was_found(db: Database) -> None:
    told = searched(db)
    assert told.winner is not None
    assert (told.winner.variant, told.winner.default) == ("k_a2_b8_c0", "k_a1_b4_c0")
    assert told.winner.changes == {"a": (1, 2), "b": (4, 8)}
    assert (told.winner.position, told.winner.session) == (4, "s1")
    assert told.winner.found == "2026-01-02T03:04:03+00:00"
    interval = (told.winner.ratio, told.winner.ratio_low, told.winner.ratio_high)
    assert interval == pytest.approx((0.81, 0.80, 0.82))
    assert (told.winner.pairs, told.winner.median_ns) == (40, 900.25)
    assert told.found.statuses == {"ok": 5, "wrong": 1, "slow": 1}
    assert (told.found.trials, told.found.sessions, told.found.left_out) == (7, 1, 0)
    seconds = (told.found.compile_s, told.found.verify_s, told.found.benchmark_s)
    assert seconds == (14.0, 3.5, 6.0)


def test_neighbours_are_one_parameter_away_and_failures_say_why(db: Database) -> None:
    near = [(n.variant, n.status, n.ratio, n.changes) for n in searched(db).neighbours]
    assert near == [
        ("k_a1_b8_c0", "ok", 0.9, {"a": (2, 1)}),
        ("k_a4_b8_c0", "ok", 0.95, {"a": (2, 4)}),
        ("k_a2_b4_c0", "ok", 0.97, {"b": (8, 4)}),
        ("k_a2_b8_c1", "wrong", None, {"c": (0, 1)}),
    ]
    assert searched(db).neighbours[3].message == "y: not finite"


def test_contenders_of_the_finals_come_first(db: Database) -> None:
    told = searched(db)
    assert [(c.variant, c.kind) for c in told.contenders] == [
        ("k_a1_b4_c0", "final"),
        ("k_a1_b8_c0", "trial"),
        ("k_a4_b8_c0", "trial"),
        ("k_a2_b4_c0", "trial"),
        ("k_a1_b4_c1", "trial"),
    ]


def test_roofline_position(db: Database) -> None:
    roofline = searched(db).roofline
    assert roofline is not None
    assert (roofline.intensity, roofline.ridge) == (3.0, 10.0)
    assert (roofline.compute, roofline.binds, roofline.fraction) == ("fma", "read", 0.75)


def test_importances_need_enough_trials(db: Database) -> None:
    assert searched(db).importances.too_few
    search = Search(db, tokens=64)
    rows = [search.tried(1.0 + 0.1 * n + 0.001 * c, b=n, c=c) for n in range(12) for c in (0, 1)]
    search.won(rows[0], rows[1], 0.9)
    found = explain(PROBLEM, Workload(64), TARGET, db).importances
    assert found.trials == 24 >= LEAST_TRIALS
    assert list(found.values) == ["b", "c"]
    assert found.values["b"] > 0.8


def test_default_that_won_has_contenders(db: Database) -> None:
    search = Search(db)
    default = search.tried(1.0)
    search.tried(1.1, a=2)
    search.tried(0.99, a=4, b=8)
    search.won(default, default, 1.0)
    told = explain(PROBLEM, Workload(16), TARGET, db)
    assert told.winner is not None
    assert (told.winner.is_default, told.winner.changes) == (True, {})
    assert [(c.ratio, c.changes) for c in told.contenders] == [
        (0.99, {"a": (1, 4), "b": (4, 8)}),
        (1.1, {"a": (1, 2)}),
    ]


def test_a_search_that_was_stopped_is_told_without_a_winner(db: Database) -> None:
    search = Search(db)
    search.tried(1.0)
    search.tried(0.9, a=2)
    told = explain(PROBLEM, Workload(16), TARGET, db)
    assert (told.winner, told.roofline, told.neighbours) == (None, None, ())
    assert [(c.variant, c.changes) for c in told.contenders] == [("k_a2_b4_c0", {"a": (1, 2)})]


def test_what_cannot_be_compared_is_left_out(db: Database) -> None:
    search = Search(db)
    search.tried(0.5, a=2, environment={"toolchain": "Mojo 0"})
    search.tried(0.5, a=2, environment={"template": "t0"})
    default = search.tried(1.0)
    search.won(default, default, 1.0)
    told = explain(PROBLEM, Workload(16), TARGET, db)
    assert (told.found.trials, told.found.left_out, told.contenders) == (1, 2, ())
    assert told.winner is not None
    assert told.winner.position == 1


def test_audits_are_told_and_change_nothing_else(db: Database) -> None:
    before = searched(db)
    (row,) = db.best()
    db.record_measurement(row["trial_id"], measured("audit", 0.99))
    after = explain(PROBLEM, Workload(16), TARGET, db)
    assert after.winner is not None
    assert before.winner is not None
    assert [(a.ratio, a.ratio_low) for a in after.winner.audits] == [(0.99, 0.98 * 0.99)]
    assert (after.winner.ratio, after.winner.pairs) == (before.winner.ratio, before.winner.pairs)
    assert (after.contenders, after.neighbours) == (before.contenders, before.neighbours)


def test_the_session_tells_of_itself(db: Database) -> None:
    searched(db)
    (best,) = db.best()

    def ended(id: str, created: str, tokens: int) -> None:
        cells = [
            {"workload": {"tokens": n, "load": "uniform"}, "noise_floor": 0.012}
            for n in (1, tokens)
        ]
        data = {"cells": cells, "pace": {"search_s": 90.5}, "per_minute": 15.25}
        keys = {"problem_id": best["problem_id"], "target_id": best["target_id"]}
        db.record_session(SessionRow(id=id, data=data, created=created, **keys))

    ended("before", "2025-12-31T00:00:00+00:00", 16)
    ended("elsewhere", best["created"], 64)
    assert explain(PROBLEM, Workload(16), TARGET, db).account is None
    ended("its own", best["created"], 16)
    ended("later", "2026-12-31T00:00:00+00:00", 16)
    told = explain(PROBLEM, Workload(16), TARGET, db).account
    assert told == Account("its own", 2, 90.5, 15.25, 0.012)


@pytest.mark.parametrize(("share", "says"), [(0.04, ""), (0.4, "; the machine was loaded: others")])
def test_a_winner_of_a_loaded_machine_is_told(
    share: float, says: str, db: Database, here: None, moetune: Run
) -> None:
    searched(db)
    (best,) = db.best()
    row = db.trial(best["trial_id"])
    db.record_winner(winner_of(row, foreign_share=share))
    cell = {"workload": {"tokens": 16, "load": "uniform"}, "noise_floor": 0.012}
    data = {"cells": [cell], "pace": {"search_s": 90.5}, "per_minute": 15.25}
    keys = {"problem_id": best["problem_id"], "target_id": best["target_id"]}
    db.record_session(SessionRow(id="s", data=data, **keys))
    (line,) = (
        line for line in moetune(f"explain {SMALL} --tokens 16").out.splitlines() if "floor" in line
    )
    assert line.partition("noise floor here 1.2%")[2].startswith(says)
    assert bool(says) == ("40% of it" in line)


def test_regret_is_told(db: Database, here: None, moetune: Run) -> None:
    told = searched(db)
    assert told.winner is not None
    assert told.winner.regret is None
    (best,) = db.best()
    row = db.trial(best["trial_id"])
    db.record_winner(winner_of(row, default_trial_id=best["default_trial_id"], regret=1.034))
    out = moetune(f"explain {SMALL} --tokens 16").out
    assert "regret      3.4% over the fastest here: a tie, or what keeping few costs\n" in out


def test_an_imported_winner_is_explained_by_what_it_brings(db: Database, tmp_path: Path) -> None:
    search = Search(db)
    default = search.tried(1.0)
    limits = {"fma_limit": 400.0, "read_limit": 40.0}
    winner = search.tried(0.8, a=2, environment=limits)
    search.won(winner, default, 0.8)
    export_best(db, tmp_path / "best.jsonl")
    with Database(tmp_path / "other.sqlite3") as other:
        import_best(other, tmp_path / "best.jsonl")
        told = explain(PROBLEM, Workload(16), TARGET, other)
    assert told.winner is not None
    assert (told.winner.position, told.winner.changes) == (2, {"a": (1, 2)})
    assert told.roofline is not None
    assert told.roofline.ridge == 10.0
    assert [c.ratio for c in told.neighbours] == [None]


def test_other_workloads_are_listed_and_never_taken(db: Database) -> None:
    searched(db)
    Search(db, tokens=4).tried(1.0)
    elsewhere = Target("intel", "skylake", ("avx2",), 8, 1, 1, 1)
    Search(db, target=elsewhere).tried(1.0)
    with pytest.raises(DatabaseError) as caught:
        explain(PROBLEM, Workload(17), TARGET, db)
    message = str(caught.value)
    assert "small: no trial at 17 tokens, load uniform, on znver3 in " in message
    for cell in (
        "16 tokens uniform on znver3 (7 trials)",
        "4 tokens uniform on znver3 (1 trials, no winner yet)",
        "16 tokens uniform on skylake of another machine (1 trials, no winner yet)",
    ):
        assert cell in message


def test_nothing_at_all(db: Database) -> None:
    with pytest.raises(DatabaseError, match="nothing of it was tuned here, or run `moetune tune`"):
        explain(PROBLEM, Workload(16), TARGET, db)


SMALL = "--hidden 64 --expert-dim 32 --experts 8 --top-k 2"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.cli.commands.explain.named", lambda name: TARGET)


def test_the_command_prints_all_of_it(db: Database, here: None, moetune: Run) -> None:
    searched(db)
    said = moetune(f"explain {SMALL} --tokens 16")
    assert (said.code, said.err) == (0, "")
    for part in (
        "workload    16 tokens, uniform, on znver3 (Test CPU): 4 cores",
        "winner      k_a2_b8_c0\n",
        "differs     a 1->2, b 4->8\n",
        "found       trial 4 of 7, 2026-01-02T03:04:03+00:00, session s1; recorded as the winner 2026",
        "paired      1.23x [1.22, 1.25] of the default's speed in 40 pairs; median 900 ns cold\n",
        "search      7 trials in 1 session: 5 ok, 1 slow, 1 wrong\n",
        "took        0:23 of work (compile 0:14, verify 0:03, timing 0:06), trials from 2026",
        "roofline    120.0 GFLOP/s, 40.0 GB/s, 3.00 FLOP/byte, ridge at 10.00 (fma 500.0 GFLOP/s, ",
        "75 % of memory bandwidth\n",
        "importances too few trials were timed to tell (6)\n",
        "Neighbours that lost, one parameter away from the winner: 4 of them",
        "Nearest contenders",
    ):
        assert part in said.out, part
    rows = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "wrong c 0->1 y: not finite" in rows
    assert "1.11x [1.09, 1.13] trial ok a 2->1" in rows
    assert "1.00x [0.98, 1.02] final ok a 2->1, b 8->4" in rows


def test_the_command_gives_json(db: Database, here: None, moetune: Run) -> None:
    searched(db)
    told = json.loads(moetune(f"explain {SMALL} --tokens 16 --json").out)
    assert told["workload"] == {"tokens": 16, "load": "uniform"}
    assert told["target"] == TARGET.key
    assert told["winner"]["changes"] == {"a": [1, 2], "b": [4, 8]}
    assert [n["status"] for n in told["neighbours"]] == ["ok", "ok", "ok", "wrong"]
    assert told["roofline"]["ridge"] == 10.0
    assert told["importances"]["values"] == {}


def test_the_command_says_no(db: Database, here: None, moetune: Run, tmp_path: Path) -> None:
    said = moetune(f"explain {SMALL} --tokens 16")
    assert (said.code, said.out) == (1, "")
    assert "no trial at 16 tokens" in said.err
    missing = moetune(f"explain {SMALL} --tokens 16 --db {tmp_path / 'none.sqlite3'}")
    assert (missing.code, missing.out) == (1, "")
    assert not (tmp_path / "none.sqlite3").exists()
