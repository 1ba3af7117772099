"""The command line: what it prints where, what it ends with, and what it says of bad input."""

from __future__ import annotations

import json
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Run
from tests.hosts import HOSTS, on
from tests.rows import CREATED, add_trial, add_winner
from tuner.cli import screen
from tuner.cli.answer import Gain, gain, tables
from tuner.cli.commands.tune import check_memory
from tuner.cli.options import read_model, seconds, token_list
from tuner.cli.outcome import Ended, parts
from tuner.errors import ProblemError, UsageError
from tuner.peers import compare
from tuner.peers.beside import Beside
from tuner.peers.compare import PeerRow
from tuner.peers.table import PEERS
from tuner.problem import PRESETS, Problem
from tuner.problem.workload import Workload
from tuner.space.variant import default_variant, make
from tuner.store import t4
from tuner.store.database import Database
from tuner.target import Target, detect
from tuner.tune.plan import Plan, Progress, Report
from tuner.tune.portfolio import Rule, selector
from tuner.tune.result import CellResult, HeldOut, Pace, TuneResult

ROOT = Path(__file__).parents[2]
CONFIG = Path(__file__).parents[1] / "models" / "mixtral-8x7b.config.json"
GRANITE = "granite-3.0-1b-a400m"
SMALL = "--hidden 64 --expert-dim 32 --experts 4 --top-k 2"
HOST = Target("amd", "x86-64-v3", ("avx2", "fma"), 4, 32 << 10, 512 << 10, 32 << 20)
DEFAULT = default_variant(PRESETS[GRANITE], HOST, tokens=16)
BETTER = make(DEFAULT.template, {**DEFAULT.config, "tile_rows": 4, "chunks": 4})


def result(**more: Any) -> CellResult:
    """The outcome of a search that made 16 tokens 1.25 times as fast."""
    made = CellResult(
        workload=Workload(16),
        default=DEFAULT.name,
        winner=BETTER.name,
        is_default=False,
        ratio=0.8,
        ratio_low=0.75,
        ratio_high=0.85,
        median_ns=1.2e6,
        default_median_ns=1.5e6,
        gflop_s=120.0,
        gb_s=44.4,
        ceiling="read",
        ceiling_fraction=0.625,
        temperature="cold",
        statuses={"ok": 12, "slow": 3},
        best=BETTER.name,
    )
    return replace(made, **more)


def outcome(cells: Sequence[CellResult], **more: Any) -> TuneResult:
    """A session that kept what won, with a pace of 20 variants a minute."""
    made = TuneResult(
        session="s1",
        cells=tuple(cells),
        kept=tuple(dict.fromkeys(cell.winner for cell in cells)),
        rules=selector({cell.workload: cell.winner for cell in cells}),
        mean_regret=1.004,
        held_out=(),
        pace=Pace(25, 20, 30.0, 5.0, 20.0, 60.0),
    )
    return replace(made, **more)


@pytest.fixture
def sessions() -> Iterator[list[tuple[Problem, Target, Plan]]]:
    """Sessions are written down instead of run; 16 tokens get faster, others don't."""
    held: list[tuple[Problem, Target, Plan]] = []

    def tune(
        problem: Problem,
        target: Target,
        database: Database,
        plan: Plan,
        report: Report,
    ) -> TuneResult:
        held.append((problem, target, plan))
        for cell, tokens in enumerate(plan.tokens):
            for stage in ("default", "search", "search", "done"):
                report(
                    Progress(
                        Workload(tokens), stage, cell, len(plan.tokens), 15, plan.trials,
                        {"ok": 12, "slow": 3}, 0.8, 61.0, plan.time_s, BETTER.name,
                    )
                )  # fmt: skip
        made = {16: result()}
        same = {"is_default": True, "winner": DEFAULT.name, "ratio": 1.0, "ceiling": "fma"}
        cells = [made.get(t) or result(workload=Workload(t), **same) for t in plan.tokens]
        return outcome(cells)

    # Of its own, so that what another fixture has patched meanwhile is undone in the reverse order.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.tune.run.tune", tune)
        patch.setattr("tuner.doctor.require_toolchain", lambda: None)
        patch.setattr("tuner.tune.estimate.is_cached", lambda text, target: False)
        patch.setattr("tuner.peers.beside.beside", lambda *given, **how: Beside({}))
        patch.setattr("tuner.target.target.find_mojo", lambda: None)
        yield held


@pytest.fixture
def zen3() -> Iterator[None]:
    """A machine that knows the levels of x86-64."""
    with on(HOSTS["znver3"]):
        yield


def test_version_and_help(moetune: Run) -> None:
    assert moetune("--version").out == "moetune 0.1.0\n"
    commands = "doctor tune best explain audit bench generate export import"
    assert all(f"\n  {name} " in moetune("--help").out for name in commands.split())


def test_python_runs_the_package() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "best"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("moetune: Missing option '--tokens'.")


@pytest.mark.parametrize(
    ("given", "problem", "words", "python"),
    [
        (GRANITE, PRESETS[GRANITE], GRANITE, f'tuner.Problem.preset("{GRANITE}")'),
        (
            "mixtral-8x7b --experts 2 --dtype float32",
            PRESETS["mixtral-8x7b"].replace(num_experts=2, name="mixtral-8x7b-e2"),
            "mixtral-8x7b --experts 2 --dtype float32",
            'tuner.Problem.preset("mixtral-8x7b").replace(num_experts=2, dtype="float32")',
        ),
        (
            str(CONFIG), PRESETS["mixtral-8x7b"], str(CONFIG),
            f'tuner.Problem.from_hf_config("{CONFIG}")',
        ),
        (
            f"{SMALL} --activation relu",
            Problem(hidden=64, expert_dim=32, num_experts=4, top_k=2, activation="relu"),
            f"{SMALL} --activation relu",
            'tuner.Problem(hidden=64, expert_dim=32, num_experts=4, top_k=2, activation="relu")',
        ),
    ],
)  # fmt: skip
def test_a_model_can_be_named_again(
    given: str, problem: Problem, words: str, python: str, sessions: list[Any], moetune: Run
) -> None:
    said = moetune(f"tune {given} --tokens 16 --json")
    (tuned,) = sessions
    assert (tuned[0], tuned[0].name) == (problem, problem.name)
    query, load = json.loads(said.out)["next"]
    assert shlex.split(query)[1:] == ["best", *words.split(), "--tokens", "16"]
    assert f"problem = {python}; layer = tuner.load(problem, " in shlex.split(load)[2]
    assert eval(python, {"tuner": __import__("tuner")}) == problem


def test_changed_sizes_are_part_of_the_label() -> None:
    changes = {"hidden": 128, "expert_dim": 64, "num_experts": 4, "top_k": 2}
    assert read_model(GRANITE, changes).problem.name == f"{GRANITE}-d128-f64-e4-k2"
    assert read_model(GRANITE, {"num_experts": 32}).problem.name == GRANITE


def test_a_folder_with_a_config(tmp_path: Path) -> None:
    folder = tmp_path / "Mixtral"
    folder.mkdir()
    (folder / "config.json").write_text(CONFIG.read_text())
    assert read_model(str(folder), {}).problem == PRESETS["mixtral-8x7b"]


def test_durations_and_token_lists() -> None:
    assert [seconds(text) for text in ("90s", "10m", "1.5h", "90")] == [90, 600, 5400, 90]
    assert token_list("1, 16,128,16") == (1, 16, 128)


def test_the_plan_of_a_session(sessions: list[Any], moetune: Run, database: Path) -> None:
    moetune(f"tune {GRANITE}")
    moetune(f"tune {GRANITE} --tokens 1,64 --load zipf:1.20 --trials 9 --time 90s --seed 7")
    moetune(
        f"tune {GRANITE} --tokens 1=4,64 --load uniform,zipf:1.2=0.5 --trials 9 --keep 2 "
        "--noise-floor 2% --held-out 8,onehot"
    )
    usual, one, matrix = (held[2] for held in sessions)
    assert (usual.tokens, usual.loads) == ((1, 16, 128, 1024), ("uniform",))
    assert (usual.trials, usual.time_s, usual.keep, usual.noise_floor) == (None, 600.0, 4, None)
    assert one.cells() == [(Workload(1, "zipf:1.2"), 1.0), (Workload(64, "zipf:1.2"), 1.0)]
    assert (one.trials, one.time_s, one.seed) == (9, 90.0, 7)
    assert [weight for _, weight in matrix.cells()] == [4.0, 2.0, 1.0, 0.5]
    assert (matrix.keep, matrix.noise_floor, matrix.time_s) == (2, 0.02, None)
    assert matrix.held_out == (
        Workload(8), Workload(8, "zipf:1.2"), Workload(1, "onehot"), Workload(64, "onehot"),
    )  # fmt: skip
    assert database.exists()


def test_a_session_ends_with_the_answer_and_two_lines(sessions: list[Any], moetune: Run) -> None:
    said = moetune(f"tune {GRANITE} --tokens 16,128 --time 10m")
    assert said.code == 0
    lines = said.out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("  ") and line.strip()}
    faster, default = rows["16"], rows["128"]
    for part in ("1.2 ms", "62 % of memory bandwidth", "25 % faster"):
        assert part in faster
    assert "62 % of peak FLOP/s" in default
    assert default.split()[-2:] == ["no", "gain"]
    changed = f"tile_rows {DEFAULT.config['tile_rows']}->4, chunks 2->4"
    gained = "16 tokens: gained 25 %: 1.25x [1.18, 1.33] of the default's speed; "
    assert f"{gained}{changed}" in lines
    assert "128 tokens: no gain: the default is within 1 % of the best of 15 tried" in lines
    assert "pace" not in said.out
    assert BETTER.name not in said.out
    assert f"best {GRANITE} --tokens 16" in lines[-2]
    assert "tuner.load(problem, tuner.Weights.random(problem, seed=0)); " in lines[-1]
    state = "1:01 of 10:00, trials: 12 ok, 3 slow, 1.25x unconfirmed, 8:59 left"
    assert f"1/2 16 tokens: search, {state}" in said.err
    assert said.err.count("search") == 2


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_answer_is_whole_at_any_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [result(workload=Workload(1)), result(workload=Workload(1024, "zipf:1.2"), foreign=0.5)]
    rows = {cell.workload: [peer_row(name) for name in PEERS] for cell in cells}
    for made in tables(cells, rows, 40.0):
        screen.Screen(width=width).print(made)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "\u2026" not in "".join(lines)
    if width >= 80:
        for part in ("zipf:1.2", "62 % of", "bandwidth", "3.10x", "faster", "1024", "1.2 ms"):
            assert any(part in line for line in lines), part


def peer_row(name: str) -> PeerRow:
    return PeerRow(
        16, "uniform", name, "k", "exact", 1e6, 3.1e6, 3.1, 3.0, 3.2, 1.0, 1.0, "read", 0.5, "cold"
    )


def test_a_session_says_less_or_more(sessions: list[Any], moetune: Run) -> None:
    quiet = moetune(f"tune {GRANITE} --tokens 16 --time 10m --quiet")
    assert quiet.err == ""
    assert len(quiet.out.split("\n16 ")) == 1
    assert "What to type next" not in quiet.out
    loud = moetune(f"tune {GRANITE} --tokens 16,128 --time 10m -v").out
    for part in (
        "1.25x [1.18, 1.33]", "44.4 GB/s", "120.0 GFLOP/s", "62% of read", "noise floor: 1.0%",
        f"kernel A is {BETTER.name}", f"a default is {DEFAULT.name}", "pace: 20.0 variants a minute",
    ):  # fmt: skip
        assert part in loud


@pytest.mark.parametrize(
    ("cell", "word", "sentence"),
    [
        ({}, "gained", "gained 25 %: 1.25x [1.18, 1.33] of the default's speed"),
        (
            {"is_default": True, "statuses": {"ok": 30, "slow": 8}, "noise_floor": 0.02},
            "no gain", "no gain: the default is within 2 % of the best of 38 tried",
        ),
        (
            {"is_default": True, "statuses": {"ok": 30}, "noise_floor": 0.01, "regret": 1.043},
            "no gain", "no gain: the default is within 5 % of the best of 30 tried",
        ),
        (
            {"is_default": True, "statuses": {"ok": 4, "slow": 2}},
            "not decided", "not decided: 6 candidates tried in 40 s; give it 80 s",
        ),
        (
            {"is_default": True, "statuses": {"ok": 2}},
            "not decided", "not decided: 2 candidates tried in 40 s; give it 4 minutes",
        ),
        (
            {"foreign": 0.42},
            "machine was busy", "other processes took 42% of the machine; run it again when it is quiet",
        ),
    ],
)  # fmt: skip
def test_what_tuning_gained(cell: dict[str, Any], word: str, sentence: str) -> None:
    assert gain(result(**cell), 40.0) == Gain(word, sentence)


def test_a_matrix_ends_with_what_serves_where_and_what_that_loses() -> None:
    worse = result(workload=Workload(128, "zipf:1.2"), regret=1.02, noise_floor=0.08, foreign=0.42)
    held = HeldOut(Workload(8), BETTER.name, "tokens", DEFAULT.name, 0.8, 1.015, 1.01, 1.02)
    kept = (BETTER.name, DEFAULT.name)
    rules = (Rule("uniform", 45, BETTER.name), Rule("uniform", None, DEFAULT.name))
    made = outcome([result(), worse], kept=kept, rules=rules, held_out=(held,))
    ended = Ended(PRESETS[GRANITE], HOST, made, Beside({}), 60.0, ())
    changed = f"tile_rows {DEFAULT.config['tile_rows']}->4, chunks 2->4"
    assert [part for part in parts(ended, 1) if isinstance(part, str)] == [
        PRESETS[GRANITE].describe(),
        f"16 tokens: gained 25 %: 1.25x [1.18, 1.33] of the default's speed; {changed}",
        "128 tokens, zipf:1.2: other processes took 42% of the machine; run it again when it is quiet",
        f"kernel A: {changed}",
        "kernel B: the template's default",
        "select uniform: T <= 45: A; else B",
        "cost of shipping 2 kernels instead of the best for each row: 0.4% in the weighted mean, at most 2.0% "
        "(128 tokens, zipf:1.2)",
        "held out 8 tokens, uniform: A (tokens) loses 1.5% [1.0%, 2.0%]",
        "held out: loses 1.5% in the median of 1",
        f"kernel A is {BETTER.name}",
        f"kernel B is {DEFAULT.name}",
        f"a default is {DEFAULT.name}",
        "noise floor: 1.0% to 8.0%; smaller gains could not be told: run it again on a quiet machine",
        "pace: 20.0 variants a minute, compile to verdict (20 compiled, 25 judged in 1:00: builds 30.0 s, "
        "verifying 5.0 s, races 20.0 s, the rest 5.0 s)",
        "",
        "What to type next, to ask for the best kernel and to run it:",
    ]


def test_json_holds_the_full_names_and_the_speed_up(sessions: list[Any], moetune: Run) -> None:
    said = moetune(f"tune {GRANITE} --tokens 16 --json")
    (cell,) = json.loads(said.out)["cells"]
    assert (cell["default"], cell["winner"]) == (DEFAULT.name, BETTER.name)
    assert (cell["tokens"], cell["load"], cell["statuses"]) == (
        16,
        "uniform",
        {"ok": 12, "slow": 3},
    )
    assert cell["speedup"] == pytest.approx(1.25)
    assert [cell["speedup_low"], cell["speedup_high"]] == pytest.approx([1 / 0.85, 1 / 0.75])
    assert cell["changes"]["chunks"] == [2, 4]
    assert (cell["tuning"], cell["limit"]) == ("gained", "62 % of memory bandwidth")


@pytest.mark.usefixtures("zen3")
def test_the_two_lines_repeat_what_was_asked(
    sessions: list[Any], moetune: Run, tmp_path: Path
) -> None:
    db = tmp_path / "a place" / "t.sqlite3"
    options = f"--load zipf:1.2 --target x86-64-v2 --db '{db}'"
    query, load = json.loads(moetune(f"tune {GRANITE} --tokens 4 {options} --json").out)["next"]
    assert shlex.split(query)[1:] == ["best", GRANITE, "--tokens", "4", *shlex.split(options)]
    named = f'load="zipf:1.2", target=tuner.target.named("x86-64-v2"), db="{db}")'
    assert named in shlex.split(load)[2]


def test_ctrl_c_keeps_everything(sessions: list[Any], moetune: Run) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # Undone before what `sessions` has patched there is: else its stand-in stays for the tests that follow.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuner.tune.run.tune", interrupted)
        said = moetune(f"tune {GRANITE}")
    assert said.code == 130
    assert "everything measured is kept, and the same command goes on" in said.err


def test_weights_that_do_not_fit_are_refused_before_they_are_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tuner.problem.footprint.available_bytes", lambda: 24 << 30)
    check_memory(PRESETS["mixtral-8x7b"], HOST)
    with pytest.raises(UsageError, match=r"take 126\.5 GiB, 24\.0 GiB are free; use --experts 40$"):
        check_memory(PRESETS["deepseek-v3"], HOST)
    monkeypatch.setattr("tuner.problem.footprint.available_bytes", lambda: 1 << 30)
    with pytest.raises(UsageError, match=r"use a larger machine$"):
        check_memory(PRESETS["mixtral-8x7b"], HOST)


def test_best_without_winners_is_the_default(
    moetune: Run, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOETUNE_SHIPPED", "0")
    said = moetune("best classic-moe --tokens 0")
    assert said.code == 0
    assert said.out.startswith("variant   moe_cpu_v")
    assert "match     default: the template's default: no winner of this problem" in said.out
    assert "evidence  none; `moetune tune` makes it" in said.out
    assert not database.exists()


@pytest.fixture
def tuned(database: Path) -> Path:
    """A database in which this machine has a winner for 16 tokens of the small problem."""
    problem = Problem(hidden=64, expert_dim=32, num_experts=4, top_k=2)
    with Database(database) as db:
        add_winner(db, 16, problem=problem, target=detect(), compiler="")
    return database


def test_best_says_how_it_matched_and_why(tuned: Path, moetune: Run) -> None:
    said = moetune(f"best {SMALL} --tokens 20")
    lines = dict(line.split(maxsplit=1) for line in said.out.splitlines())
    assert lines["variant"] == "k_a8"
    assert lines["match"].startswith(
        "tokens: winner tuned on this target: tuned for 16 tokens, asked for 20"
    )
    assert lines["config"] == "a 8"
    assert lines["evidence"].startswith("1.25x [1.00, 1.25] of the default's speed, median 900 ns")
    assert lines["measured"].startswith(f"{CREATED} on {detect().arch}")


def test_best_json(tuned: Path, moetune: Run) -> None:
    answer = json.loads(moetune(f"best {SMALL} --tokens 16 --json").out)
    assert (answer["variant"], answer["match"]) == ("k_a8", "exact")
    assert answer["config"] == {"a": 8}
    assert answer["evidence"]["median_ns"] == 900.25


@pytest.mark.usefixtures("zen3")
def test_best_for_a_named_target_and_another_database(
    tuned: Path, moetune: Run, tmp_path: Path
) -> None:
    other = tmp_path / "other.sqlite3"
    Database(other).close()
    elsewhere = moetune(f"best {SMALL} --tokens 16 --json --db {other}")
    assert json.loads(elsewhere.out)["match"] == "default"
    older = moetune(f"best {SMALL} --tokens 16 --json --target x86-64-v2")
    assert json.loads(older.out)["arch"] == "x86-64-v2"


def test_export_and_import(tuned: Path, moetune: Run, tmp_path: Path) -> None:
    text, other = tmp_path / "best.jsonl", tmp_path / "other.sqlite3"
    assert moetune(f"export {text}").out == f"{text}: 1 winners\n"
    assert moetune(f"import {text} --db {other}").out == f"{other}: 1 winners taken from {text}\n"
    again = tmp_path / "again.jsonl"
    moetune(f"export {again} --db {other}")
    assert again.read_bytes() == text.read_bytes()


def test_export_writes_no_file_that_was_not_named(
    tuned: Path, moetune: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout's db/best.jsonl holds the winners that ship."""
    (tmp_path / "db").mkdir()
    best = tmp_path / "db" / "best.jsonl"
    best.write_text("what ships\n")
    monkeypatch.chdir(tmp_path)
    said = moetune("export")
    moetune("export named.jsonl")
    assert (said.out, said.err) == (Path("named.jsonl").read_text(), "")
    assert moetune("export -").out == said.out
    trials = moetune("export --format t4")
    assert len(json.loads(trials.out)["results"]) == 1
    assert trials.err == "-: 1 trials\n"
    assert best.read_text() == "what ships\n"


def test_export_of_trials_as_t4(tuned: Path, moetune: Run, tmp_path: Path) -> None:
    path = tmp_path / "trials.t4.json.gz"
    assert moetune(f"export {path} --format t4").out == f"{path}: 1 trials\n"
    assert [result["status"] for result in t4.read(path)["results"]] == ["ok"]
    said = moetune(f"export {path} --format t4 --tokens 999")
    assert said.code == 2
    assert "T4: no such cell; there are: --problem " in said.err


def test_export_called_wrongly(tuned: Path, moetune: Run) -> None:
    said = moetune("export x.jsonl --tokens 1")
    assert (said.code, said.out) == (2, "")
    assert "only with --format t4" in said.err


def test_the_sampler_of_a_session(sessions: list[Any], moetune: Run) -> None:
    moetune(f"tune {GRANITE} --sampler tpe")
    moetune(f"tune {GRANITE}")
    assert [plan.sampler for _, _, plan in sessions] == ["tpe", "auto"]
    assert "'auto', 'model', 'tpe'" in moetune(f"tune {GRANITE} --sampler nelder").err


def test_import_names_the_bad_line(moetune: Run, tmp_path: Path) -> None:
    (tmp_path / "best.jsonl").write_text("{}\n")
    said = moetune(f"import {tmp_path / 'best.jsonl'}")
    assert said.code == 1
    assert "best.jsonl: line 1: line: lacks default; nothing was imported" in said.err


def test_bench_shows_a_row_for_each_peer(moetune: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    row = compare.PeerRow(
        tokens=16, load="uniform", peer="numpy", variant=BETTER.name, match="exact",
        ours_median_ns=1e6, peer_median_ns=2.5e6, ratio=2.5, ratio_low=2.4, ratio_high=2.6,
        gflop_s=100.0, gb_s=40.0, ceiling="fma", ceiling_fraction=0.71, temperature="cold",
        form="grouped",
    )  # fmt: skip

    def side_by_side(*arguments: Any) -> list[compare.PeerRow]:
        assert arguments[3:6] == ((16,), ("numpy",), "zipf:1.2")
        arguments[6]("timing")
        return [row]

    monkeypatch.setattr(compare, "side_by_side", side_by_side)
    monkeypatch.setattr(compare, "installed", lambda: ("numpy",))
    said = moetune("bench classic-moe --tokens 16 --load zipf:1.20")
    assert (said.code, said.err) == (0, "timing\n")
    (line,) = (line for line in said.out.splitlines() if line.split()[:1] == ["16"])
    assert " ".join(line.split()) == (
        "16 exact 1 ms numpy (grouped) 2.5 ms 2.50x [2.40, 2.60] 100.0 GFLOP/s 71% of fma"
    )
    told = json.loads(moetune("bench classic-moe --tokens 16 --load zipf:1.2 --json").out)
    assert told["rows"] == [vars(row)]


BAD_CALLS = {
    "best": "Missing option '--tokens'",
    "best --tokens 1": "MODEL: missing; give a preset, the path of a config.json, or --hidden",
    "best --tokens 1 --hidden 8": "--expert-dim, --experts, --top-k: missing; without MODEL every",
    "best granit --tokens 1": "preset='granit': not known",
    "best none/config.json --tokens 1": "none/config.json: no such file; give a preset's name",
    "best classic-moe --tokens -1": "-1 is not in the range x>=0",
    "best classic-moe --tokens 1 --top-k 5": "top_k=5: must be at most num_experts=4; choose fewer",
    "best classic-moe --tokens 1 --hidden 0": "hidden=0: must be at least 1",
    "best classic-moe --tokens 1 --dtype int8": "dtype='int8': not known; use one of float32",
    "best classic-moe --tokens 1 --load hot": "load='hot': not known; use uniform, onehot or zipf",
    "best classic-moe --tokens 1 --target z80": "target 'z80': not known",
    "tune classic-moe --target z80": "target 'z80': not known; ",
    "tune classic-moe --tokens 1,x": "'1,x' must be whole numbers of at least 1 with commas",
    "tune classic-moe --tokens 0": "'0' must be whole numbers of at least 1",
    "tune classic-moe --tokens ''": "'' must be whole numbers of at least 1",
    "tune classic-moe --time soon": "'soon' must be a time above 0, like 90s, 10m or 1h",
    "tune classic-moe --time 0": "'0' must be a time above 0",
    "tune classic-moe --trials 0": "0 is not in the range x>=1",
    "tune classic-moe --load zipf": "load='zipf': not known",
    "tune classic-moe --load uniform,": "load='': not known",
    "tune classic-moe --tokens 1=0": "'1=0' must have weights above 0, like 1=4,128",
    "tune classic-moe --keep 0": "0 is not in the range x>=1",
    "tune classic-moe --noise-floor 200%": "'200%' must be a share above 0 and below 1",
    "tune classic-moe --held-out 8,cold": "load='cold': not known",
    "bench classic-moe --against jax": "peer 'jax': not known; use ",
    "bench classic-moe --against ''": "peers: none given; use ",
    "bench classic-moe --load hot": "load='hot': not known",
    "frob": "No such command 'frob'",
}


@pytest.mark.parametrize(("line", "message"), BAD_CALLS.items())
def test_bad_calls(line: str, message: str, moetune: Run, sessions: list[Any]) -> None:
    said = moetune(line)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("moetune: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert sessions == []


BAD_CONFIGS = {
    "{": "config.json: not JSON",
    "[]": "config.json: holds a JSON list, must be an object",
    "{}": "config.json: lacks model_type",
    '{"model_type": "mixtral"}': "config.json: lacks hidden_size",
    '{"model_type": "gpt2"}': "model_type='gpt2': not known; this moetune knows deepseek_v3",
}


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGS.items())
def test_bad_configs(text: str, message: str, moetune: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    said = moetune(f"best {tmp_path} --tokens 1")
    assert said.code == 2
    assert message in said.err


@pytest.mark.parametrize("command", ["best {} --tokens 1", "tune {}", "export"])
def test_a_corrupt_database(
    command: str, moetune: Run, sessions: list[Any], database: Path
) -> None:
    database.write_text("no database at all" * 100)
    said = moetune(command.format(GRANITE))
    assert said.code == 1
    assert f"moetune: {database}: is not a database; move it away and import" in said.err
    assert sessions == []


@pytest.mark.parametrize("command", ["best {} --tokens 1", "tune {}", "export"])
def test_a_database_from_a_newer_version(
    command: str, moetune: Run, sessions: list[Any], database: Path
) -> None:
    with Database(database) as db:
        add_trial(db)
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    said = moetune(command.format(GRANITE))
    assert said.code == 1
    assert "was written by a newer moetune (schema 99, this one knows" in said.err
    assert "upgrade moetune or name another file with --db or MOETUNE_DB" in said.err


def test_no_mojo(moetune: Run, monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("tuner.host.toolchain.find_mojo", lambda: None)
    said = moetune(f"tune {GRANITE}")
    assert said.code == 1
    assert said.err == (
        "moetune: mojo: not found beside this Python nor on PATH; pip install moetune installs it\n"
    )
    assert not database.exists()


def test_no_linker(moetune: Run, monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setattr("tuner.doctor.toolchain_version", lambda: "Mojo 9.9")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    said = moetune(f"tune {GRANITE}")
    assert said.code == 1
    assert "no C linker: none of $CC, cc, gcc, clang is there; apt-get install gcc" in said.err
    assert not database.exists()


def test_python_says_the_same_as_the_command_line() -> None:
    with pytest.raises(ProblemError, match=r"did you mean granite-3\.0-1b-a400m"):
        Problem.preset("granite-3.0-1b")


@pytest.mark.compiler
@pytest.mark.timed
def test_tune_for_real_and_run_both_lines(moetune: Run, database: Path) -> None:
    said = moetune(f"tune {SMALL} --tokens 32 --trials 2 --no-peers --json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    (cell,) = told["cells"]
    assert 0 < cell["speedup_low"] <= cell["speedup"] <= cell["speedup_high"]
    query, load = (shlex.split(line) for line in told["next"])
    found = moetune(shlex.join([*query[1:], "--json"]))
    answer = json.loads(found.out)
    assert (answer["match"], answer["variant"]) == ("exact", cell["winner"])
    loaded = subprocess.run(
        [sys.executable, *load[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == cell["winner"]
