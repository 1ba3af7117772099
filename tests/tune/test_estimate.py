"""Estimates: points, trials and builds of a session before it starts, and its time left."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import formula
from tests.commands import Run
from tests.kernels import TINY
from tests.rows import winner_of
from tuner.cli import screen
from tuner.codegen.render import render
from tuner.measure.race import FINAL_EFFORT
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space import count, templates
from tuner.space import space as spaces
from tuner.space.variant import Variant, default_variant, make
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow
from tuner.target import Target
from tuner.tune import estimate as stage
from tuner.tune.builder import Cores
from tuner.tune.cell import VISITOR_EFFORT
from tuner.tune.contest import NOMINEES
from tuner.tune.estimate import STAGES, TRUST_S, CellEstimate, Estimate, TimeLeft, estimate
from tuner.tune.finals import PROCESSES
from tuner.tune.plan import Plan, Progress
from tuner.tune.session import CELL_FINALS_S, FINALS_S
from tuner.tune.shortlist import FINALISTS

HOST = Target("amd", "x86-64-v3", ("avx2", "fma"), 2, 32 << 10, 512 << 10, 32 << 20)
COMPILER = "Mojo 1"
COMPILE_S, VERIFY_S, BENCHMARK_S, FIRST_S = 4.0, 0.5, 1.5, 3.0
BUILDERS = 2
BUILT_S = COMPILE_S / BUILDERS
APART_S = VERIFY_S + BENCHMARK_S
TRIAL_S = BUILT_S + APART_S
FINAL_S = PROCESSES * FINAL_EFFORT.budget_s + (1 + FINALISTS) * VERIFY_S
STARTS = len(spaces.load("moe_cpu").starts)


@pytest.fixture(autouse=True)
def no_toolchain(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """A compiler that is never called; the set holds the sources that count as cached."""
    cached: set[str] = set()
    monkeypatch.setattr(stage, "toolchain_version", lambda: COMPILER)
    phased = Cores(frozenset(range(BUILDERS)), frozenset())
    monkeypatch.setattr(stage, "split_cores", lambda wanted: phased)
    monkeypatch.setattr(stage, "is_cached", lambda text, target: text in cached)
    return cached


@pytest.fixture
def db(database: Path) -> Iterator[Database]:
    with Database(database) as opened:
        yield opened


def default(tokens: int = 16, problem: Problem = TINY) -> Variant:
    return default_variant(problem, HOST, tokens=tokens)


def changed(**changes: int) -> Variant:
    base = default()
    return make(base.template, {**base.config, **changes})


def tried(db: Database, variant: Variant, tokens: int = 16, problem: Problem = TINY,
          verify_s: float = VERIFY_S, **more: Any) -> TrialRow:  # fmt: skip
    environment = {"toolchain": COMPILER, "template": templates.digest(variant.template)}
    fields: dict[str, Any] = {
        "target_id": db.add_target(HOST), "problem_id": db.add_problem(problem), "tokens": tokens,
        "variant_id": db.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack),
        "load": "uniform", "status": "ok", "environment": environment, "session": "s",
        "compile_ms": 1e3 * COMPILE_S, "verify_ms": 1e3 * verify_s,
        "benchmark_ms": 1e3 * BENCHMARK_S, "source_digest": render(problem, variant).digest,
    }  # fmt: skip
    measured = MeasurementRow(median_ns=1, low_ns=1, high_ns=1, temperature="cold", ratio=1.0)
    return db.trial(db.record_trial(TrialRow(**{**fields, **more}), measured))


@pytest.fixture
def past(db: Database) -> Database:
    """A database with the times above, from another problem."""
    other = TINY.replace(hidden=64)
    base = default(problem=other)
    tried(db, base, problem=other, verify_s=VERIFY_S + FIRST_S)
    for chunks in (1, 4, 8):
        variant = make(base.template, {**base.config, "chunks": chunks})
        tried(db, variant, problem=other)
    return db


def the_cell(db: Database, plan: Plan) -> CellEstimate:
    (cell,) = estimate(TINY, HOST, db, plan).cells
    return cell


def test_a_new_cell_costs_builds_trials_and_finals(past: Database) -> None:
    cell = the_cell(past, Plan((16,), trials=20))
    assert (cell.recorded, cell.trials, cell.cached, cell.builds) == (0, 20, 0, 20)
    assert cell.search_s == pytest.approx(20 * TRIAL_S)
    assert (cell.visits_s, cell.finals_s) == (0, pytest.approx(FINAL_S))
    assert cell.times.source == "medians of 4 trials of float32 problems on this machine"


def test_a_session_starts_its_processes_and_finals_meet_in_all_cells(past: Database) -> None:
    plan = Plan((8, 16), ("uniform", "onehot"), trials=20)
    whole = estimate(TINY, HOST, past, plan)
    assert [(c.workload.tokens, c.workload.load) for c in whole.cells] == [
        (8, "uniform"), (8, "onehot"), (16, "uniform"), (16, "onehot"),
    ]  # fmt: skip
    visitors = 3 * NOMINEES // 4
    assert whole.cells[0].visits_s == pytest.approx(visitors * (VERIFY_S + VISITOR_EFFORT.budget_s))
    assert whole.start_s == pytest.approx((1 + PROCESSES) * FIRST_S)
    assert whole.held_out_s == 0
    parts = [c.search_s + c.visits_s + c.finals_s for c in whole.cells]
    assert whole.seconds == pytest.approx(whole.start_s + sum(parts))
    checked = dataclasses.replace(plan, held_out=(Workload(12), Workload(24)))
    assert estimate(TINY, HOST, past, checked).held_out_s > 0


def test_builds_on_cores_of_their_own_hide_behind_the_measuring(
    past: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = Cores(frozenset({0, 1}), frozenset({2, 3, 4, 5}))
    monkeypatch.setattr(stage, "split_cores", lambda wanted: ahead)
    assert the_cell(past, Plan((16,), trials=20)).search_s == pytest.approx(20 * APART_S)
    few = Cores(frozenset({0, 1}), frozenset({2}))
    monkeypatch.setattr(stage, "split_cores", lambda wanted: few)
    assert the_cell(past, Plan((16,), trials=20)).search_s == pytest.approx(20 * COMPILE_S)


def test_points_are_those_of_the_space_and_of_the_packed_form_that_won(past: Database) -> None:
    whole = spaces.resolve(spaces.load("moe_cpu"), TINY, HOST, 16)
    assert the_cell(past, Plan((16,), trials=1)).points == count.count(whole)
    row = tried(past, default(1), tokens=1)
    past.record_winner(winner_of(row, is_default=True))
    pinned = the_cell(past, Plan((16,), trials=1)).points
    assert pinned.exact
    assert pinned.value < count.count(whole).value


def test_recorded_trials_are_not_made_again(past: Database) -> None:
    tried(past, default())
    tried(past, changed(chunks=4))
    cell = the_cell(past, Plan((16,), trials=10))
    assert (cell.recorded, cell.trials) == (2, 8)
    assert the_cell(past, Plan((16,), trials=2)).trials == 0
    assert the_cell(past, Plan((16,), trials=2)).search_s == 0


@pytest.mark.parametrize(
    "other",
    [
        {"environment": {"toolchain": "Mojo 0"}},
        {"environment": {"toolchain": COMPILER, "template": "t0"}, "source_digest": "another"},
    ],
)
def test_trials_of_another_compiler_or_source_are_made_again(
    other: dict[str, Any], past: Database
) -> None:
    tried(past, changed(chunks=4), **other)
    assert the_cell(past, Plan((16,), trials=10)).recorded == 0


def test_a_template_that_changed_elsewhere_leaves_the_same_source_recorded(past: Database) -> None:
    tried(past, changed(chunks=4), environment={"toolchain": COMPILER, "template": "t0"})
    assert the_cell(past, Plan((16,), trials=10)).recorded == 1


def test_trials_of_another_temperature_are_made_again(past: Database) -> None:
    tried(past, changed(chunks=4))
    assert the_cell(past, Plan((16,), trials=10, temperature="warm")).recorded == 0


def test_what_is_cached_needs_no_build(past: Database, no_toolchain: set[str]) -> None:
    no_toolchain.add(render(TINY, default()).text)
    cell = the_cell(past, Plan((16,), trials=20))
    assert (cell.trials, cell.cached, cell.builds) == (20, 1, 19)
    assert cell.search_s == pytest.approx(20 * TRIAL_S - BUILT_S)
    assert the_cell(past, Plan((16,), trials=1)).builds == 0


def test_a_later_cell_finds_what_an_earlier_one_built(past: Database) -> None:
    first, second = estimate(TINY, HOST, past, Plan((8, 16), trials=20)).cells
    assert default(8).id == default(16).id
    assert first.cached == 0
    assert 1 <= second.cached <= 1 + STARTS
    assert second.search_s == pytest.approx(20 * TRIAL_S - second.cached * BUILT_S)


def test_time_bounds_the_trials_of_each_cell(past: Database) -> None:
    time_s = FINALS_S + 2 * (CELL_FINALS_S + 10 * TRIAL_S + 0.1)
    found = estimate(TINY, HOST, past, Plan((8, 16), time_s=time_s))
    assert [cell.trials for cell in found.cells] == [10, 10]
    assert found.budget_s == time_s
    assert [c.trials for c in estimate(TINY, HOST, past, Plan((8,), time_s=1.0)).cells] == [1]
    both = estimate(TINY, HOST, past, Plan((8, 16), trials=3, time_s=time_s))
    assert [cell.trials for cell in both.cells] == [3, 3]


def test_a_small_space_bounds_the_trials(past: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "count", lambda space: count.Count(7, 7, 7))
    tried(past, default())
    assert the_cell(past, Plan((16,), trials=100)).trials == 6


def test_warm_starts_are_known_before(past: Database, no_toolchain: set[str]) -> None:
    near = changed(chunks=8, unroll=2)
    row = tried(past, near, tokens=8)
    past.record_winner(winner_of(row))
    no_toolchain.add(render(TINY, near).text)
    assert the_cell(past, Plan((16,), trials=20)).cached == 1
    assert the_cell(past, Plan((16,), trials=20, warm_starts=0)).cached == 0


def report(stage: str, trials: int, elapsed_s: float, *, planned: int | None = 20,
           budget_s: float | None = None) -> Progress:  # fmt: skip
    return Progress(
        workload=Workload(16), stage=stage, cell=0, cells=1, trials=trials, planned=planned,
        statuses={"ok": trials}, best_ratio=0.8, elapsed_s=elapsed_s, budget_s=budget_s, note="",
    )  # fmt: skip


@pytest.fixture
def one(past: Database) -> Estimate:
    return estimate(TINY, HOST, past, Plan((16,), trials=20))


def test_time_left_is_the_estimate_at_first_and_nothing_at_the_end(one: Estimate) -> None:
    left = TimeLeft(one)
    assert left(report("default", 0, 0.0)) == pytest.approx(one.seconds)
    assert left(report("finals", 20, one.seconds - FINAL_S)) == pytest.approx(FINAL_S)
    assert left(report("done", 20, 110.0)) == 0


def test_a_session_that_keeps_to_the_estimate_counts_down(one: Estimate) -> None:
    left = TimeLeft(one)
    for trials in (5, 10, 20):
        elapsed_s = one.start_s + one.cells[0].search_s * trials / 20
        assert left(report("search", trials, elapsed_s)) == pytest.approx(one.seconds - elapsed_s)


def test_a_slower_session_corrects_the_estimate_by_its_own_pace(one: Estimate) -> None:
    half_s = one.start_s + one.cells[0].search_s / 2
    slow = TimeLeft(one)(report("search", 10, 3 * half_s))
    planned_s = one.seconds - half_s
    assert slow == pytest.approx(planned_s * (TRUST_S + 3 * half_s) / (TRUST_S + half_s))
    assert 1.5 * planned_s < slow < 3 * planned_s
    assert TimeLeft(one)(report("search", 10, half_s / 3)) < planned_s


def test_recorded_trials_are_no_progress(past: Database) -> None:
    for chunks in (1, 4, 8):
        tried(past, changed(chunks=chunks))
    resumed = estimate(TINY, HOST, past, Plan((16,), trials=20))
    assert (resumed.recorded, resumed.trials) == (3, 17)
    left = TimeLeft(resumed)
    assert left(report("search", 3, resumed.start_s)) == pytest.approx(
        resumed.seconds - resumed.start_s
    )


def test_the_time_given_is_never_exceeded(one: Estimate) -> None:
    left = TimeLeft(one)
    assert left(report("search", 2, 50.0, budget_s=60.0)) == 10.0
    assert left(report("search", 2, 70.0, budget_s=60.0)) == 0.0
    assert left(report("search", 19, 20.0, planned=None, budget_s=60.0)) == 40.0


def test_the_bar_shows_incumbent_statuses_and_time_left(
    one: Estimate, capsys: pytest.CaptureFixture[str]
) -> None:
    with screen.TuneProgress(TimeLeft(one)) as progress:
        progress(report("default", 0, 0.0))
        slow = dataclasses.replace(report("search", 13, 61.0), statuses={"ok": 12, "slow": 1})
        progress(slow)
        progress(report("search", 14, 65.0))
        progress(report("done", 20, 110.0))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(
        "1/1 16 tokens: default, 0:00, trials of 20: none yet, 1.25x unconfirmed, 1:"
    )
    assert "1:01, trials of 20: 12 ok, 1 slow, 1.25x unconfirmed, 0:" in lines[1]
    assert lines[1].endswith(" left")
    assert "1:50, " in lines[2]
    assert lines[2].endswith(", 0:00 left")


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_state_fits_beside_stage_and_bar(width: int) -> None:
    """What there is no room for is left out from the end; the time so far is always there."""
    now = report("search", 13, 61.0, budget_s=600.0)
    room = width - len("2/2 1024 tokens zipf:1.2: search") - 16 - 3
    told = screen.state(now, 539.0, room)
    assert told.startswith("1:01 of 10:00")
    assert len(told) <= max(room, len("1:01 of 10:00"))
    assert screen.state(now, 539.0).startswith(told)
    assert (told == screen.state(now, 539.0)) == (width == 200)


def test_a_session_over_its_time_does_not_say_how_much_it_had() -> None:
    assert screen.state(report("final", 20, 42.0, budget_s=40.0), 0.0).startswith("0:42, trials")


def test_a_session_makes_the_trials_that_were_estimated(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole session on a machine that answers from a formula: its stages, its trials, its end."""
    monkeypatch.setattr("tuner.measure.trial.toolchain_version", lambda: COMPILER)
    machine = formula.Machine(
        tmp_path, lambda config, workload: 1e6 * (1 + 0.05 * config["chunks"])
    )
    plan = Plan((1, 64), trials=10, seed=2)
    searched: list[int] = []
    for expected in (20, 0):
        told = estimate(formula.PROBLEM, formula.TARGET, db, plan)
        reports: list[Progress] = []
        machine.session(db, plan, reports.append)
        searched += [r.trials for r in reports if r.stage == "search"]
        assert told.trials == expected
        assert [r.stage for r in reports if r.stage not in STAGES] == []
        assert [STAGES.index(r.stage) for r in reports] == sorted(
            STAGES.index(r.stage) for r in reports
        )
        assert TimeLeft(told)(reports[-1]) == 0
    assert searched == list(
        range(3, 21)
    )  # the two defaults are no search, and nothing is tried twice


def test_the_bar_fills_with_the_time_that_is_over() -> None:
    assert screen.done(report("search", 1, 30.0), 90.0) == 0.25
    assert screen.done(report("done", 1, 30.0), 0.0) == 1.0
    assert screen.done(report("default", 0, 0.0), 0.0) == 1.0


SIZES = "--hidden 48 --expert-dim 40 --experts 4 --top-k 2"


@pytest.fixture
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is asked, and nothing may be tuned."""

    def never(*_: object) -> None:
        raise AssertionError("a dry run tuned")

    monkeypatch.setattr("tuner.tune.run.tune", never)
    monkeypatch.setattr("tuner.doctor.require_toolchain", lambda: None)
    monkeypatch.setattr("tuner.cli.commands.tune.named", lambda name: HOST)


def test_a_dry_run_prints_what_would_be_done(past: Database, dry: None, moetune: Run) -> None:
    tried(past, default())
    before = past.data_version()
    said = moetune(f"tune {SIZES} --tokens 8,16 --trials 10 --dry-run")
    assert (said.code, said.err) == (0, "")
    assert past.data_version() == before
    rows = {line.split()[0]: line.split() for line in said.out.splitlines() if "uniform" in line}
    first, second = estimate(TINY, HOST, past, Plan((8, 16), trials=10)).cells
    assert rows["8"][1:5] == ["uniform", f"{first.points.value:,.0f}", "0", "10"]
    assert rows["16"][1:5] == ["uniform", f"{second.points.value:,.0f}", "1", "9"]
    assert (
        f"each: compile {COMPILE_S:.2g} s, verify {VERIFY_S:.2g} s, timing {BENCHMARK_S:.2g} s "
        "(medians of 5 trials of float32 problems on this machine)"
    ) in said.out
    assert said.out.splitlines()[-1].startswith("19 new trials with ")


def test_a_dry_run_makes_no_database_and_says_what_it_assumes(
    dry: None, database: Path, moetune: Run
) -> None:
    said = moetune(f"tune {SIZES} --tokens 16 --time 5m --dry-run")
    assert said.code == 0
    assert "assumed, as this machine has no trials: medians of " in said.out
    assert said.out.splitlines()[-1].endswith("; stops after 5:00")
    assert not database.exists()


def test_a_dry_run_gives_json(past: Database, dry: None, moetune: Run) -> None:
    told = json.loads(moetune(f"tune {SIZES} --tokens 16 --trials 10 --dry-run --json").out)
    (cell,) = told["cells"]
    assert (cell["trials"], cell["builds"], cell["recorded"]) == (10, 10, 0)
    assert cell["points"]["low"] == cell["points"]["high"] == cell["points"]["value"]
    parts = cell["search_s"] + cell["visits_s"] + cell["finals_s"]
    assert told["seconds"] == pytest.approx(told["start_s"] + parts)
    assert told["budget_s"] is None
