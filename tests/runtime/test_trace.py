"""Traces: what is recorded, that it stays small, what is refused, and how it is replayed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.commands import Run
from tests.kernels import TINY, tokens
from tuner.cli.options import weighted_loads
from tuner.cli.traces import resolve
from tuner.errors import ProblemError, UsageError
from tuner.problem import Problem, trace_file, trace_load
from tuner.problem.trace_file import TraceRow, Traffic
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, pairs_per_expert, route_by_load
from tuner.runtime import trace
from tuner.store.database import Database

PROBLEM = Problem(hidden=16, expert_dim=8, num_experts=8, top_k=2)
TINY_8 = TINY.replace(num_experts=8)
SIZES = "--hidden 48 --expert-dim 40 --experts 8 --top-k 2"
SKEWED = (9, 3, 2, 1, 1, 0, 0, 0)  # of 8 tokens no expert has more than 8
COUNTS = (8, 3, 2, 1, 1, 1, 0, 0)


def record(path: Path, calls: int = 3, count: int = 8, problem: Problem = PROBLEM) -> Path:
    with tuner.trace(path) as recorder:
        for _ in range(calls):
            recorder.record(problem, count, np.array(COUNTS) * count // 8, 500_000)
    return path


def test_a_trace_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    found = trace_file.read(record(tmp_path / "t.jsonl"))
    row = TraceRow(PROBLEM.digest, 8, 3, 1.5, (COUNTS,) * 3)
    assert found == Traffic({PROBLEM.digest: PROBLEM}, (row,))


@pytest.mark.compiler
def test_layers_are_recorded_while_it_runs(tmp_path: Path) -> None:
    layer = tuner.load(TINY, Weights.random(TINY, 2))
    x = tokens(TINY, 40)
    layer(x[:1])
    with tuner.trace(tmp_path / "t.jsonl"):
        for count in (1, 1, 40):
            y, indices, _ = layer(x[:count], return_routing=True)
            np.testing.assert_array_equal(layer(x[:count]), y)
    layer(x[:2])
    rows = {row.tokens: row for row in trace_file.read(tmp_path / "t.jsonl").rows}
    assert {count: row.calls for count, row in rows.items()} == {1: 4, 40: 2}
    assert rows[40].counts == (tuple(pairs_per_expert(TINY, indices)),) * 2
    assert rows[40].ms > 0


def test_a_trace_stays_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with tuner.trace(tmp_path / "t.jsonl") as recorder:
        for count in rng.integers(1, 4096, 20_000).tolist():
            recorder.record(PROBLEM, count, np.full(8, count // 4), 1000)
    found = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()[1:]]
    assert sum(line["calls"] for line in found) == 20_000
    assert sum(len(line["counts"]) for line in found) <= 12 * trace.SAMPLES
    assert (tmp_path / "t.jsonl").stat().st_size < 256 << 10


def test_a_killed_process_leaves_what_was_saved(tmp_path: Path) -> None:
    recorder = tuner.trace(tmp_path / "t.jsonl")
    recorder.start()
    recorder.record(PROBLEM, 8, np.array(COUNTS), 1)
    recorder._saved -= trace.SAVE_S + 1
    recorder.record(PROBLEM, 8, np.array(COUNTS), 1)
    assert trace_file.read(recorder.path).rows[0].calls == 2
    recorder.stop()
    assert recorder not in trace.recorders


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"), tuner.trace(tmp_path / "no" / "t"):
        pass
    assert trace.recorders == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("noise", "line 1 is none of a trace"),
        ('{"moetune_trace": 2, "problems": {}}', "version 2"),
        ('{"moetune_trace": 1, "problems": {}}\n{"tokens": 1}', "line 2 is none of a trace"),
    ],
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        trace_file.read(path)


@pytest.mark.parametrize("counts", [SKEWED, COUNTS[:7], (8, 8, 0, 0, 0, 0, 0, 1)])
def test_counts_that_cannot_be_are_refused(tmp_path: Path, counts: tuple[int, ...]) -> None:
    path = record(tmp_path / "t.jsonl")
    path.write_text(path.read_text().replace(str(list(COUNTS)), str(list(counts)), 1))
    with pytest.raises(UsageError, match="contradict each other"):
        trace_file.read(path)


def kept(path: Path) -> trace_load.Recorded:
    found = trace_load.recorded(trace_file.read(path), PROBLEM)
    trace_load.keep(found)
    return found


def test_the_load_is_named_by_its_content(tmp_path: Path) -> None:
    one, same = kept(record(tmp_path / "a")), kept(record(tmp_path / "b", calls=3))
    other = kept(record(tmp_path / "c", count=16))
    assert one.load == same.load != other.load
    assert Workload(4, one.load).load == one.load
    assert trace_load.find(one.digest) == one


@pytest.mark.parametrize("seed", [0, 1])
def test_recorded_calls_are_drawn_as_they_were(tmp_path: Path, seed: int) -> None:
    load = kept(record(tmp_path / "t")).load
    indices, _ = route_by_load(PROBLEM, Workload(8, load), seed)
    assert tuple(pairs_per_expert(PROBLEM, indices)) == COUNTS
    assert all(len(set(row)) == 2 for row in indices.tolist())


@pytest.mark.parametrize("count", [1, 3, 50])
def test_other_token_counts_get_scaled_counts(tmp_path: Path, count: int) -> None:
    load = kept(record(tmp_path / "t")).load
    share = np.array(COUNTS) * count / 8
    drawn = [route_by_load(PROBLEM, Workload(count, load), seed)[0] for seed in range(400)]
    pairs = np.array([pairs_per_expert(PROBLEM, indices) for indices in drawn])
    assert all(len(set(row)) == 2 for indices in drawn for row in indices.tolist())
    assert ((pairs >= np.floor(share)) & (pairs <= np.ceil(share))).all()
    assert np.abs(pairs.mean(axis=0) - share).max() < 0.1


def test_no_tokens_of_a_trace(tmp_path: Path) -> None:
    load = kept(record(tmp_path / "t")).load
    assert route_by_load(PROBLEM, Workload(0, load), 0)[0].shape == (0, 2)


def test_a_trace_of_another_layer_is_refused(tmp_path: Path) -> None:
    found = kept(record(tmp_path / "t"))
    with pytest.raises(UsageError, match="has no counts of 4 experts"):
        trace_load.recorded(trace_file.read(tmp_path / "t"), PROBLEM.replace(num_experts=4))
    with pytest.raises(ProblemError, match="was recorded with 8 experts, 2 a token, not 8 and 3"):
        route_by_load(PROBLEM.replace(top_k=3), Workload(8, found.load), 0)


def test_counts_that_are_not_kept_are_named() -> None:
    with pytest.raises(ProblemError, match="give the trace's file once: --load trace:FILE"):
        route_by_load(PROBLEM, Workload(8, "trace:00000000"), 0)


def test_the_heaviest_token_counts_by_time() -> None:
    rows = [
        TraceRow("p", count, 10, ms, ()) for count, ms in ((1, 60), (100, 10), (120, 29), (9, 1))
    ]
    assert trace_load.heaviest(rows, most=2) == ({1: 0.6, 120: 0.39}, pytest.approx(0.99))


def test_a_file_on_the_command_line_becomes_its_digest(tmp_path: Path) -> None:
    path = record(tmp_path / "t.jsonl", calls=4)
    loads = weighted_loads(f"uniform,trace:{path}=2")
    digest = trace_load.recorded(trace_file.read(path), PROBLEM).load
    assert resolve(PROBLEM, loads, {}) == (
        {"uniform": 1.0, digest: 2.0},
        {8: 1.0},
        "tokens from the trace: 8=1, 100 % of its time",
    )
    assert resolve(PROBLEM, {digest: 1.0}, {4: 1.0}) == ({digest: 1.0}, {4: 1.0}, "")


def test_tokens_from_no_trace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="from-trace needs one --load trace:FILE"):
        resolve(PROBLEM, {"uniform": 1.0}, {})


@pytest.mark.compiler
def test_the_command_line_plans_for_a_trace(tmp_path: Path, moetune: Run) -> None:
    path = record(tmp_path / "t.jsonl", problem=TINY_8, count=8)
    said = moetune(f"tune {SIZES} --tokens from-trace --load trace:{path} --trials 1 --dry-run")
    assert said.code == 0, said.err
    assert said.err == "tokens from the trace: 8=1, 100 % of its time\n"


@pytest.mark.slow
@pytest.mark.compiler
def test_a_trace_is_tuned_and_found(tmp_path: Path, database: Path, moetune: Run) -> None:
    path = record(tmp_path / "t.jsonl", problem=TINY_8, count=8)
    said = moetune(
        f"tune {SIZES} --tokens from-trace --load trace:{path} --trials 1 --no-peers --json"
    )
    assert said.code == 0, said.err
    assert "tokens from the trace: 8=1, 100 % of its time" in said.err
    load = trace_load.recorded(trace_file.read(path), TINY_8).load
    with Database(database) as db:
        assert [(row["tokens"], row["load"]) for row in db.best()] == [(8, load)]
    layer = tuner.load(TINY_8, Weights.random(TINY_8, 0), load=load)
    assert layer.selection(8).match == "exact"
    best = moetune(f"best {SIZES} --tokens 8 --load trace:{path}")
    assert "match     exact" in best.out
