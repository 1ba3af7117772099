"""What a session decides, on machines that compute their times from a formula: see tests/formula.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.formula import PROBLEM, TARGET, Machine
from tuner.errors import TemplateError
from tuner.problem.workload import Workload
from tuner.space.variant import default_variant, parse
from tuner.store.database import Database
from tuner.store.records import TrialRow
from tuner.tune.plan import Plan, Progress
from tuner.tune.result import TuneResult

MATRIX = Plan(tokens=(1, 256), loads=("uniform", "zipf:1.2"), trials=18, keep=2, seed=4)


@pytest.fixture(autouse=True, scope="module")
def _no_compiler() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.measure.trial.toolchain_version", lambda: "Mojo test")
        yield


def ns(config: dict[str, int], workload: Workload) -> float:
    """Small tiles for few tokens, large ones for many, whose panels few tiles share; four chunks where
    the load is skewed."""
    tile = 8 if workload.tokens < 64 else 14
    chunks = 4 if workload.load != "uniform" else 2
    loss = 0.02 * abs(config["tile_rows"] - tile) + 0.03 * abs(config["chunks"] - chunks)
    shared = 0.05 * abs(config["row_tiles"] - 8) / 8 if workload.tokens >= 64 else 0.0
    slow = shared + 0.3 * (config["simd_width"] != 16) + 0.05 * abs(config["prefetch"] - 16) / 16
    return 1e6 * (1 + loss + slow)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path, ns)


class Done(NamedTuple):
    """A session of MATRIX that went to its end."""

    machine: Machine
    database: Path
    result: TuneResult
    reports: list[Progress]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("matrix")
    machine, reports = Machine(folder, ns), []
    with Database(folder / "tuning.sqlite3") as db:
        result = machine.session(db, MATRIX, reports.append)
    return Done(machine, folder / "tuning.sqlite3", result, reports)


def rows(db: Database, workload: Workload) -> list[TrialRow]:
    return db.trials(PROBLEM.digest, TARGET.digest, workload.tokens, workload.load)


def all_rows(db: Database, plan: Plan) -> list[TrialRow]:
    found = [row for workload, _ in plan.cells() for row in rows(db, workload)]
    return sorted(found, key=lambda row: row.id or 0)


def tuned(machine: Machine, database: Path, plan: Plan = MATRIX) -> TuneResult:
    with Database(database) as db:
        result: TuneResult = machine.session(db, plan)
    return result


def test_a_matrix_ships_few_variants_that_lose_little(done: Done) -> None:
    result = done.result
    assert [cell.workload for cell in result.cells] == [w for w, _ in MATRIX.cells()]
    assert 1 <= len(result.kept) <= 2
    assert {cell.winner for cell in result.cells} == set(result.kept)
    assert len({parse(name).pack for name in result.kept}) == 1
    for cell in result.cells:
        best = ns(parse(cell.best).config, cell.workload)
        lost = ns(parse(cell.winner).config, cell.workload) / best
        assert cell.regret == pytest.approx(max(1.0, lost), abs=0.01)
        assert cell.ratio <= 1.0 or cell.is_default
        assert best <= ns(parse(cell.default).config, cell.workload)
    assert 1.0 <= result.mean_regret <= max(cell.regret for cell in result.cells)
    assert {rule.load for rule in result.rules} == set(MATRIX.loads)


def test_the_kept_variants_are_the_winners_with_their_regret(done: Done) -> None:
    result = done.result
    with Database(done.database) as db:
        best = {(row["tokens"], row["load"]): row for row in db.best(PROBLEM.digest)}
        stored = [
            row[0] for row in db._connection.execute("SELECT regret FROM winners ORDER BY id")
        ]
    for cell in result.cells:
        row = best[cell.workload.tokens, cell.workload.load]
        assert (row["variant"], row["is_default"]) == (cell.winner, cell.is_default)
        assert row["ratio"] == cell.ratio
    assert stored == [cell.regret for cell in result.cells]


def test_more_variants_lose_no_more(machine: Machine, database: Path) -> None:
    one = tuned(machine, database, Plan(**{**vars(MATRIX), "keep": 1}))
    four = tuned(machine, database, Plan(**{**vars(MATRIX), "keep": 4}))
    # One alone, or the fewest that are nowhere slower than a default.
    assert len(one.kept) < len(four.kept)
    assert four.mean_regret <= one.mean_regret + 0.005


def test_each_variant_is_built_once_for_all_cells(done: Done) -> None:
    assert len(done.machine.built) == len(set(done.machine.built))
    with Database(done.database) as db:
        tried = Counter(row.variant for row in all_rows(db, MATRIX))
    assert sum(count > 1 for count in tried.values()) >= 4
    assert set(tried) == set(done.machine.built)


def test_what_has_no_effect_on_a_workload_is_no_reason_to_build(done: Done) -> None:
    """row_tiles and scratch_mib do nothing for one token, and are as other cells have them."""
    idle = {"depth_block", "row_tiles", "prefetch_rows", "least_rows", "scratch_mib"}
    with Database(done.database) as db:
        configs = [row.config for row in rows(db, Workload(1))]
    visits = [r for r in done.reports if r.stage == "compare" and r.workload == Workload(1)]
    configs = configs[: len(configs) - len(visits)]
    seen = [tuple((n, v) for n, v in sorted(c.items()) if n not in idle) for c in configs]
    assert len(seen) == len(set(seen))
    default = default_variant(PROBLEM, TARGET, tokens=1).config
    assert any(config[name] != default[name] for config in configs for name in idle)


def test_cells_take_turns(done: Done) -> None:
    with Database(done.database) as db:
        cells = [(row.tokens, row.load) for row in all_rows(db, MATRIX)]
    first = cells[:36]
    assert all(count >= 5 for count in Counter(first).values())
    assert len(set(first)) == 4


def test_a_session_has_so_many_trials_for_each_cell_on_average(done: Done) -> None:
    visits = sum(report.stage == "compare" for report in done.reports)
    with Database(done.database) as db:
        assert len(all_rows(db, MATRIX)) - visits == 4 * 18


def test_the_default_races_its_copy_first(done: Done) -> None:
    for (workload, _), (raced, names, _) in zip(MATRIX.cells(), done.machine.races, strict=False):
        assert raced == workload
        assert names == [default_variant(PROBLEM, TARGET, tokens=workload.tokens).name] * 2


def test_losers_get_three_rounds(done: Done) -> None:
    trials = [rounds for _, names, rounds in done.machine.races if len(names) == 2]
    assert Counter(trials)[3] > len(trials) / 3
    assert max(trials) == 15


def test_every_finalist_races_the_default_and_its_copy_in_two_processes(done: Done) -> None:
    result = done.result
    for cell in result.cells:
        finals = [n for w, n, _ in done.machine.races if w == cell.workload and len(n) > 2]
        assert len(finals) == 2
        assert all(names[0] == names[-1] == cell.default for names in finals)
        assert all(cell.winner in names for names in finals)


def test_the_noise_floor_follows_the_noise(machine: Machine, database: Path) -> None:
    quiet = tuned(machine, database, Plan(tokens=(1,), trials=8))
    assert quiet.cells[0].noise_floor == 0.01
    with Database(database) as db:
        assert rows(db, Workload(1))[-1].environment["noise_floor"] == 0.01
    machine.noise = 0.2
    noisy = tuned(machine, database, Plan(tokens=(256,), trials=8))
    assert noisy.cells[0].noise_floor > 0.05
    given = tuned(machine, database, Plan(tokens=(256,), trials=8, noise_floor=0.5))
    assert given.cells[0].noise_floor == 0.5
    assert given.cells[0].is_default


def test_the_default_wins_where_nothing_is_faster(machine: Machine, database: Path) -> None:
    default = default_variant(PROBLEM, TARGET, tokens=16).config
    machine.ns = lambda config, workload: 1e6 * (1.0 if config == default else 1.1)
    result = tuned(machine, database, Plan(tokens=(16,), trials=12))
    assert result.cells[0].is_default
    assert result.kept == (result.cells[0].default,)
    with Database(database) as db:
        (row,) = db.best(PROBLEM.digest)
    assert (row["is_default"], row["ratio"]) == (True, 1.0)


def test_what_is_too_good_is_measured_again_in_another_process(
    machine: Machine, database: Path
) -> None:
    machine.bad = lambda config: "flattered" if config["chunks"] == 1 else ""
    result = tuned(machine, database, Plan(tokens=(1,), trials=30))
    assert parse(result.cells[0].winner).config["chunks"] != 1
    with Database(database) as db:
        doubted = [r for r in rows(db, Workload(1)) if "doubted_ratio" in r.environment]
    assert doubted
    for row in doubted:
        assert row.config["chunks"] == 1
        assert row.environment["doubted_ratio"] < 0.2
        assert row.measurement is not None
        assert row.measurement.ratio > 0.9


def test_what_is_right_for_one_seed_alone_is_wrong(machine: Machine, database: Path) -> None:
    machine.bad = lambda config: "cheat" if config["chunks"] == 1 else ""
    result = tuned(machine, database, Plan(tokens=(1,), trials=20))
    assert parse(result.cells[0].winner).config["chunks"] != 1
    with Database(database) as db:
        found = [row for row in rows(db, Workload(1)) if row.config["chunks"] == 1]
    assert {(row.status, row.message) for row in found} == {
        ("wrong", "on other inputs: y is off"),
    }


def test_what_is_right_for_one_seed_and_no_faster_than_it_may_be_never_wins(
    machine: Machine, database: Path
) -> None:
    """Its times raise no doubt: the finals verify it on inputs that no trial has seen."""
    best = tuned(machine, database, Plan(tokens=(1,), trials=25)).cells[0].winner
    tile = parse(best).config["tile_rows"]
    machine.bad = lambda config: "overfit" if config["tile_rows"] == tile else ""
    again = tuned(machine, database, Plan(tokens=(1,), trials=25)).cells[0]
    assert parse(again.winner).config["tile_rows"] != tile
    with Database(database) as db:
        found = {(row.variant, row.status, row.message) for row in rows(db, Workload(1))}
        assert [row["variant"] for row in db.best(PROBLEM.digest)] == [again.winner]
    assert (best, "wrong", "on other inputs: y is off") in found


def test_a_default_that_is_right_for_one_seed_alone_ends_the_session(
    machine: Machine, database: Path
) -> None:
    default = default_variant(PROBLEM, TARGET, tokens=1)
    machine.bad = lambda config: "overfit" if config == default.config else ""
    with pytest.raises(TemplateError, match=r"the template's default is wrong on other inputs: y"):
        tuned(machine, database, Plan(tokens=(1,), trials=8))


def test_what_is_above_the_ceiling_is_doubted(machine: Machine, database: Path) -> None:
    """A call of 1000 operations takes at least 1 ms; the default takes 1.1 ms in the median."""
    machine.peak_gflop_s = 1e3 / 1e6
    machine.ns = lambda config, workload: 0.8e6 if config["chunks"] == 1 else 1e6
    tuned(machine, database, Plan(tokens=(256,), trials=12))
    with Database(database) as db:
        for row in rows(db, Workload(256)):
            assert ("doubted_ratio" in row.environment) == (row.config["chunks"] == 1)


def test_who_crashes_in_the_finals_is_left_out(machine: Machine, database: Path) -> None:
    machine.bad = lambda config: "tired" if config["tile_rows"] == 8 else ""
    result = tuned(machine, database, Plan(tokens=(1,), trials=25))
    (cell,) = result.cells
    assert parse(cell.winner).config["tile_rows"] != 8
    with Database(database) as db:
        tried = [row for row in rows(db, Workload(1)) if row.config["tile_rows"] == 8]
    assert any(row.status == "ok" for row in tried)


def test_what_fails_is_stored_and_never_kept(machine: Machine, database: Path) -> None:
    kinds = {4: "wrong", 1: "crash"}
    machine.bad = lambda config: kinds.get(config["chunks"], "")
    result = tuned(machine, database)
    with Database(database) as db:
        found = {(row.config["chunks"], row.status) for row in all_rows(db, MATRIX)}
    assert {(4, "wrong"), (1, "crash")} <= found
    assert not {(4, "ok"), (1, "ok")} & found
    assert not {parse(name).config["chunks"] for name in result.kept} & {1, 4}


def test_a_session_that_was_stopped_goes_on(machine: Machine, database: Path) -> None:
    reports: list[Progress] = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if progress.trials == 30:
            raise KeyboardInterrupt

    with Database(database) as db:
        with pytest.raises(KeyboardInterrupt):
            machine.session(db, MATRIX, stop)
        before = all_rows(db, MATRIX)
        result = machine.session(db, MATRIX)
        after = all_rows(db, MATRIX)
        machine.session(db, MATRIX)
        again = all_rows(db, MATRIX)
    assert [row.id for row in after[: len(before)]] == [row.id for row in before]
    tried = Counter((row.tokens, row.load, row.variant) for row in after)
    assert set(tried.values()) == {1}
    assert len(after) >= 72
    assert [row.id for row in again] == [row.id for row in after]
    assert len(result.cells) == 4


@pytest.mark.parametrize(
    ("factor", "stages"), [(1.0, ["finals", "finals", "done"]), (1.5, ["done"])]
)
def test_another_run_of_the_same_command_only_races_the_finalists_again(
    tmp_path: Path, database: Path, factor: float, stages: list[str]
) -> None:
    """Who is `factor` times as slow as the default is in no finals, of the first run or the second."""
    default = default_variant(PROBLEM, TARGET, tokens=4).config
    machine = Machine(tmp_path, lambda config, _: 1e6 * (1.0 if config == default else factor))
    plan, notes = Plan(tokens=(4,), trials=2), list[Progress]()
    with Database(database) as db:
        results = [machine.session(db, plan, notes.append) for _ in range(2)]
        status = [row.status for row in rows(db, Workload(4))]
    assert status == ["ok", "ok" if factor == 1.0 else "slow"]
    assert results[0].cells[0].statuses == results[1].cells[0].statuses
    assert [n.stage for n in notes if n.stage in ("finals", "done")] == stages * 2


@pytest.mark.parametrize(("stage", "number"), [("search", 15), ("compare", 2)])
def test_a_matrix_that_was_stopped_ends_as_if_it_had_not_been(
    stage: str, number: int, machine: Machine, tmp_path: Path
) -> None:
    plan = Plan(tokens=(1, 256), trials=13, keep=2, seed=4)
    machine.noise = 0.0
    seen: list[str] = []

    def stop(progress: Progress) -> None:
        seen.append(progress.stage)
        if seen.count(stage) == number:
            raise KeyboardInterrupt

    whole = tuned(machine, tmp_path / "whole.sqlite3", plan)
    with Database(tmp_path / "parts.sqlite3") as db:
        with pytest.raises(KeyboardInterrupt):
            machine.session(db, plan, stop)
        before = all_rows(db, plan)
    machine.built, machine.races = [], []
    parts = tuned(machine, tmp_path / "parts.sqlite3", plan)
    stories = []
    for name in ("whole", "parts"):
        with Database(tmp_path / f"{name}.sqlite3") as db:
            stories.append([(r.id, r.tokens, r.variant, r.status) for r in all_rows(db, plan)])
    assert stories[0] == stories[1]
    assert (parts.cells, parts.kept, parts.rules) == (whole.cells, whole.kept, whole.rules)
    raced = {name for _, names, _ in machine.races for name in names}
    assert {row.variant for row in before} & set(machine.built) <= raced


def test_workloads_held_out_are_checked_and_stay_untuned(machine: Machine, database: Path) -> None:
    held = (Workload(4), Workload(1, "onehot"))
    result = tuned(machine, database, Plan(**{**vars(MATRIX), "held_out": held}))
    assert [row.workload for row in result.held_out] == list(held)
    assert [row.match for row in result.held_out] == ["tokens", "load"]
    for row in result.held_out:
        assert row.winner in result.kept
        lost = ns(parse(row.winner).config, row.workload) / ns(parse(row.best).config, row.workload)
        assert row.regret == pytest.approx(lost, abs=0.01)
    with Database(database) as db:
        assert not rows(db, Workload(4))


def test_a_session_is_stored_with_its_pace(done: Done) -> None:
    result = done.result
    with Database(done.database) as db:
        (session,) = db.sessions(PROBLEM.digest, TARGET.digest)
    assert session.id == result.session
    assert session.data["kept"] == list(result.kept)
    assert session.data["pace"]["compiled"] == result.pace.compiled > 10
    assert session.data["per_minute"] == pytest.approx(result.pace.per_minute, abs=0.01)


def test_winners_nearby_are_tried_first(machine: Machine, database: Path) -> None:
    near = tuned(machine, database, Plan(tokens=(2,), trials=40))
    assert not near.cells[0].is_default
    plan = Plan(tokens=(4,), trials=3)
    with Database(database) as db:
        machine.session(db, plan)
        default, first, *_ = rows(db, Workload(4))
    assert default.variant == near.cells[0].default
    assert first.variant == near.cells[0].winner


def test_a_default_that_is_slower_than_its_copy_shows_the_noise(
    machine: Machine, database: Path
) -> None:
    machine.copy_factor = 1.5
    result = tuned(machine, database, Plan(tokens=(256,), trials=4))
    assert result.cells[0].noise_floor == pytest.approx(0.5, abs=0.02)
    assert result.cells[0].is_default


@pytest.mark.parametrize("foreign", [0.0, 0.5])
def test_a_default_that_nothing_beat_under_load_takes_no_earlier_winners_place(
    foreign: float, machine: Machine, database: Path
) -> None:
    plan = Plan(tokens=(256,), trials=25)
    quiet = tuned(machine, database, plan).cells[0]
    assert not quiet.is_default
    machine.foreign, machine.noise = foreign, 0.9
    (noisy,) = tuned(machine, database, plan).cells
    assert (noisy.is_default, noisy.loaded, noisy.foreign) == (True, foreign > 0, foreign)
    with Database(database) as db:
        (best,) = db.best(PROBLEM.digest)
    kept = (quiet.winner, 0.0) if foreign else (noisy.winner, 0.0)
    assert (best["variant"], best["foreign_share"]) == kept


def test_without_an_earlier_winner_the_row_says_how_loaded_the_machine_was(
    machine: Machine, database: Path
) -> None:
    machine.foreign, machine.noise = 0.4, 0.9
    assert tuned(machine, database, Plan(tokens=(256,), trials=8)).cells[0].loaded
    with Database(database) as db:
        (best,) = db.best(PROBLEM.digest)
    assert (best["is_default"], best["foreign_share"]) == (True, 0.4)
