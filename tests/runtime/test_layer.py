from __future__ import annotations

import copy
import json
import pickle
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from call_overhead import bare_call, overheads

import tuner
from tests.kernels import REDUCED, TINY, tokens, variant
from tuner.codegen.compile import toolchain_version
from tuner.cpu import buffers
from tuner.errors import UsageError
from tuner.measure import reference
from tuner.problem import trace_file
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights
from tuner.runtime import engine, fast_path, from_database
from tuner.store.database import Database
from tuner.store.records import TrialRow, WinnerRow
from tuner.target import detect

pytestmark = pytest.mark.compiler

WEIGHTS = Weights.random(TINY, 2)


@pytest.fixture(scope="module")
def layer() -> tuner.Layer:
    return tuner.load(TINY, WEIGHTS)


def expected(x: np.ndarray) -> np.ndarray:
    return reference.moe(TINY, WEIGHTS.check(TINY), x)


@pytest.mark.parametrize("count", [1, 2, 13, 200])
def test_a_layer_without_a_database_runs_the_default(layer: tuner.Layer, count: int) -> None:
    x = tokens(TINY, count)
    np.testing.assert_allclose(layer(x), expected(x), atol=1e-5)
    assert layer.selection(count).match == "default"


def test_no_tokens(layer: tuner.Layer) -> None:
    y, indices, weights = layer(tokens(TINY, 0), return_routing=True)
    assert (y.shape, indices.shape, weights.shape) == ((0, 48), (0, 2), (0, 2))


def test_routing_is_the_references(layer: tuner.Layer) -> None:
    x = tokens(TINY, 40)
    y, indices, weights = layer(x, return_routing=True)
    right = reference.route(TINY, WEIGHTS.check(TINY), x)
    np.testing.assert_array_equal(indices, right[0])
    np.testing.assert_allclose(weights, right[1], atol=1e-6)
    np.testing.assert_array_equal(y, layer(x))


def test_views_and_dlpack(layer: tuner.Layer) -> None:
    class Exported:
        def __init__(self, array: np.ndarray) -> None:
            self.array = array

        def __dlpack__(self, **options: object) -> object:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> tuple[int, int]:
            return self.array.__dlpack_device__()

    x = tokens(TINY, 12)
    np.testing.assert_array_equal(layer(Exported(x)), layer(x))
    np.testing.assert_array_equal(layer(x[::2]), layer(x[::2].copy()))


def test_torch_in_torch_out(layer: tuner.Layer) -> None:
    torch = pytest.importorskip("torch")
    x = tokens(TINY, 5)
    y = layer(torch.from_numpy(x))
    assert isinstance(y, torch.Tensor)
    np.testing.assert_array_equal(y.numpy(), layer(x))


@pytest.mark.parametrize(
    "x", [np.zeros((3, 47), np.float32), np.zeros((3, 48)), np.zeros(48, "f4")]
)
def test_tokens_that_do_not_fit(layer: tuner.Layer, x: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"x: has shape .* must be \[T, 48\] float32"):
        layer(x)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_layer_says_that_it_is_not_copied(layer: tuner.Layer, way: Callable[[Any], Any]) -> None:
    """The errors of what it holds (locks, addresses of ctypes) would name none of this."""
    with pytest.raises(UsageError, match=r"^Layer: cannot be copied or pickled; share it, or load"):
        way(layer)


def test_two_threads_call_one_layer(layer: tuner.Layer) -> None:
    xs = [tokens(TINY, 30 + i, seed=i) for i in range(3)]
    right = [expected(x) for x in xs]
    wrong = []

    def work(i: int) -> None:
        for _ in range(100):
            if not np.allclose(layer(xs[i]), right[i], atol=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_kernel_changes_with_the_number_of_tokens(database: Path) -> None:
    problem = TINY
    with Database(database) as db:
        for count, changes in ((1, {}), (64, {"tile_rows": 6})):
            record(db, problem, count, changes)
    layer = tuner.load(problem, WEIGHTS)
    names = [layer.selection(count).variant for count in (1, 2, 64, 4096)]
    assert names[0] == names[1] == variant(problem).name
    assert names[2] == variant(problem, {"tile_rows": 6}).name
    assert layer.selection(4096).match == "default"
    for count in (1, 64):
        x = tokens(problem, count)
        np.testing.assert_allclose(layer(x), expected(x), atol=1e-5)


def record(db: Database, problem: tuner.Problem, count: int, changes: dict[str, int]) -> None:
    """A winner as the tuner would store it."""
    chosen = variant(problem, changes)
    db.add_problem(problem)
    db.add_target(detect())
    db.add_variant(chosen.id, chosen.template, chosen.name, chosen.config, chosen.pack)
    workload = {
        "problem_id": problem.digest,
        "target_id": detect().digest,
        "tokens": count,
        "load": "uniform",
    }
    row = TrialRow(
        variant_id=chosen.id,
        status="ok",
        environment={"toolchain": toolchain_version()},
        **workload,
    )
    db.record_winner(WinnerRow(trial_id=db.record_trial(row), median_ns=1000.0, **workload))


@pytest.mark.timed
def test_a_second_layer_compiles_nothing(layer: tuner.Layer) -> None:
    start = time.perf_counter()
    tuner.load(TINY, WEIGHTS)(tokens(TINY, 3))
    assert time.perf_counter() - start < 1.0


def test_scratch_is_allocated_at_the_first_call_alone(
    layer: tuner.Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(count: int) -> None:
        raise AssertionError(f"allocates {count} floats")

    x = tokens(TINY, 600)
    y = layer(x)
    monkeypatch.setattr(buffers, "allocate", refuse)
    monkeypatch.setattr(engine, "allocate", refuse)
    for count in (600, 1, 77):
        np.testing.assert_allclose(layer(x[:count]), y[:count], atol=1e-5)


@pytest.mark.timed
@pytest.mark.parametrize("form", ["x", "out", "routing"])
def test_a_call_costs_less_than_20_us_beyond_the_kernel(layer: tuner.Layer, form: str) -> None:
    """With warm caches; see benchmarks/call_overhead.py for layers whose weights stream through them."""
    x = tokens(TINY, 1)
    y = np.empty_like(x)
    calls = {
        "x": lambda: layer(x),
        "out": lambda: layer(x, out=y),
        "routing": lambda: layer(x, return_routing=True),
    }
    bare = bare_call(layer, WEIGHTS, x)
    for call in (bare, calls[form]):
        call()
    (beyond,), _ = overheads([bare, calls[form]], rounds=500)
    assert 0 < beyond.value < 20.0


def test_steady_calls_allocate_nothing(layer: tuner.Layer) -> None:
    x = {count: tokens(TINY, count) for count in (1, 5, 16, 17, 300)}
    y = {count: np.empty_like(x[count]) for count in x}
    for _ in range(2):  # the first call loads, the second makes the places of the short way
        for count in x:
            layer(x[count], out=y[count])
    tracemalloc.start()
    for _ in range(3):
        for count in x:
            layer(x[count], out=y[count])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4096  # Python's own numbers and frames; the smallest of the answers has 192 bytes
    for count in x:
        np.testing.assert_allclose(y[count], expected(x[count]), atol=1e-5)


@pytest.mark.parametrize("count", [1, 16, 40])
def test_answers_are_written_where_they_are_wanted(layer: tuner.Layer, count: int) -> None:
    x = tokens(TINY, count)
    right = layer(x)
    for _ in range(2):
        out = np.full_like(x, np.nan)
        assert layer(x, out=out) is out
        np.testing.assert_array_equal(out, right)
    out = np.full_like(x, np.nan)
    y, indices, _ = layer(x, return_routing=True, out=out)
    assert y is out
    assert indices.shape == (count, 2)
    np.testing.assert_array_equal(out, right)
    np.testing.assert_array_equal(layer(np.asfortranarray(x)), right)


@pytest.mark.parametrize("count", [1, 40])
def test_a_place_for_answers_that_does_not_fit(layer: tuner.Layer, count: int) -> None:
    x = tokens(TINY, count)
    layer(x)
    frozen = np.empty_like(x)
    frozen.flags.writeable = False
    strided = np.empty((count, 96), "f4")[:, ::2]
    for out in (np.empty((count, 47), "f4"), np.empty(x.shape), strided, frozen):
        with pytest.raises(UsageError, match=rf"out: has shape .* must be \[{count}, 48\] float32"):
            layer(x, out=out)


def test_answers_of_few_tokens_are_their_owners(layer: tuner.Layer) -> None:
    first, second = tokens(TINY, 2), tokens(TINY, 2, seed=9)
    layer(first)
    one = layer(first)
    kept = one.copy()
    assert not np.array_equal(layer(second), kept)
    np.testing.assert_array_equal(one, kept)


@pytest.mark.parametrize("routing", [False, True])
def test_answers_made_ahead_are_each_their_own(layer: tuner.Layer, routing: bool) -> None:
    """More calls than answers are made ahead at a time, and all of them kept."""
    calls = 2 * fast_path.MOST_STOCK + 3
    xs = [tokens(TINY, 1, seed=seed) for seed in range(calls)]
    answers = [layer(x, return_routing=routing) for x in xs]
    for x, answer in zip(xs, answers, strict=True):
        y, *chosen = answer if routing else (answer,)
        np.testing.assert_allclose(y, expected(x), atol=1e-5)
        assert y.flags.owndata
        if routing:
            right = reference.route(TINY, WEIGHTS.check(TINY), x)
            np.testing.assert_array_equal(chosen[0], right[0])
            np.testing.assert_allclose(chosen[1], right[1], atol=1e-6)


@pytest.mark.parametrize("count", [1, 16, 40])
def test_a_place_for_answers_may_be_the_tokens(layer: tuner.Layer, count: int) -> None:
    x = tokens(TINY, count)
    right = layer(x)
    second = layer(right)
    for answer in (right, second):
        assert layer(x, out=x) is x
        np.testing.assert_array_equal(x, answer)
    both = np.concatenate([tokens(TINY, count), np.zeros((1, 48), "f4")])
    layer(both[:-1], out=both[1:])
    np.testing.assert_array_equal(both[1:], right)


def test_places_that_come_again(layer: tuner.Layer) -> None:
    """More of them than are remembered, views among them."""
    x = tokens(TINY, 2)
    right = layer(x)
    base = np.empty((8, 48), "f4")
    places = [np.empty_like(x) for _ in range(fast_path.MOST_PLACES + 2)] + [base[2:4], base[5:7]]
    for place in places * 3:
        place[...] = np.nan
        assert layer(x, out=place) is place
        np.testing.assert_array_equal(place, right)


def test_a_remembered_place_that_has_changed_is_refused(layer: tuner.Layer) -> None:
    x = tokens(TINY, 4)
    place = np.empty_like(x)
    for _ in range(3):
        layer(x, out=place)
    kept = place.copy()
    place.flags.writeable = False
    with pytest.raises(UsageError, match="out: has shape"):
        layer(x, out=place)
    np.testing.assert_array_equal(place, kept)
    place.flags.writeable = True
    place.shape = (2, 96)
    with pytest.raises(UsageError, match=r"out: has shape \[2, 96\]"):
        layer(x, out=place)


def test_tokens_that_do_not_fit_after_some_that_did(layer: tuner.Layer) -> None:
    x = tokens(TINY, 1)
    for _ in range(3):
        layer(x)
    for wrong in (x.astype(np.float64), x.astype(">f4"), x[0], x[:, :47], x[None]):
        with pytest.raises(UsageError, match="x: has shape"):
            layer(wrong)
    wide = np.zeros((1, 96), "f4")
    wide[:, ::2] = x
    np.testing.assert_array_equal(layer(wide[:, ::2]), layer(x))


def test_who_starts_to_listen_hears_the_next_call(layer: tuner.Layer, tmp_path: Path) -> None:
    x = tokens(TINY, 1)
    for _ in range(3):
        layer(x)
    with tuner.trace(tmp_path / "trace.jsonl"):
        layer(x)
        layer(x)
    layer(x)
    assert [row.calls for row in trace_file.read(tmp_path / "trace.jsonl").rows] == [2]


def test_scratch_that_moves_is_followed(layer: tuner.Layer) -> None:
    x = tokens(TINY, 3)
    right = layer(x)
    np.testing.assert_array_equal(layer(x), right)
    engine.SCRATCH.of(engine.SCRATCH.view(np.uint8, 0).base.nbytes + 1)
    for _ in range(3):
        np.testing.assert_array_equal(layer(x), right)


def test_stats_tell_what_a_layer_did() -> None:
    layer = tuner.load(TINY, WEIGHTS, load="onehot")
    for count in (1, 1, 1, 3, 40, 40, 70):
        layer(tokens(TINY, count))
    layer(tokens(TINY, 0))
    stats = layer.stats()
    assert (stats.calls, stats.tokens) == (7, {1: 3, 2: 1, 32: 2, 64: 1})
    assert stats.fallbacks == {"default": 7}
    assert [(b.first, b.last, b.match, b.calls) for b in stats.buckets] == [
        (1, 63, "default", 6),
        (64, None, "default", 1),
    ]
    assert stats.buckets[0].variant == layer.selection(5).variant
    indices = layer(tokens(TINY, 40), return_routing=True)[1]
    busiest = np.bincount(indices.ravel()).max() / 40
    assert (stats.sampled, set(stats.busiest.values())) == (1, {busiest})
    assert 0 < stats.pack_ms < stats.load_ms
    assert stats.packed_bytes > 0
    assert json.loads(json.dumps(stats.to_json()))["calls"] == 7


def test_what_is_tuned_later_serves_layers_that_are_loaded_later(database: Path) -> None:
    before = tuner.load(TINY, WEIGHTS)
    with Database(database) as db:
        record(db, TINY, 1, {"tile_rows": 6})
    after = tuner.load(TINY, WEIGHTS)
    names = [layer.selection(1).variant for layer in (before, after)]
    assert names == [variant(TINY).name, variant(TINY, {"tile_rows": 6}).name]
    assert [layer.stats().buckets[0].match for layer in (before, after)] == ["default", "exact"]


def test_arguments_of_the_other_kind_of_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="problem: is for a bundle"):
        tuner.load(TINY, WEIGHTS, problem=TINY)
    with pytest.raises(UsageError, match=r"db: a bundle .* brings its own winners"):
        tuner.load(tmp_path / "x.moe", WEIGHTS, db=tmp_path / "db")


def test_deepseek_routing_through_a_layer() -> None:
    problem = REDUCED["deepseek-v3"]
    weights = Weights.random(problem, 6)
    x = tokens(problem, 21)
    y = tuner.load(problem, weights)(x)
    np.testing.assert_allclose(y, reference.moe(problem, weights.check(problem), x), atol=1e-4)


def test_bfloat16_tokens_and_weights() -> None:
    problem = TINY.replace(dtype="bfloat16")
    dtype = NUMPY_DTYPES["bfloat16"]
    weights = Weights.random(problem, 4)
    layer = tuner.load(problem, weights)
    x = tokens(problem, 20).astype(dtype)
    y = layer(x)
    assert y.dtype == dtype
    right = reference.moe(problem, weights.check(problem), x)
    error = np.linalg.norm(y.astype(float) - right, axis=1) / np.linalg.norm(right, axis=1)
    assert error.max() < 2**-8
    with pytest.raises(UsageError, match=r"must be \[T, 48\] bfloat16"):
        layer(x.astype(np.float32))


def test_bfloat16_of_torch() -> None:
    torch = pytest.importorskip("torch")
    problem = TINY.replace(dtype="bfloat16")
    weights = Weights.random(problem, 4)
    given = {
        name: torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
        for name, array in vars(weights).items()
        if array is not None
    }
    x = torch.from_numpy(tokens(problem, 6)).to(torch.bfloat16)
    y = tuner.load(problem, Weights(**given))(x)
    assert y.dtype == torch.bfloat16
    same = tuner.load(problem, weights)(x.float().numpy().astype(NUMPY_DTYPES["bfloat16"]))
    np.testing.assert_array_equal(y.float().numpy(), same.astype(np.float32))


def test_prepared_counts_compile_nothing_when_called(
    layer: tuner.Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("compiles at a call")

    layer.prepare([3, 300])
    monkeypatch.setattr(from_database, "compile_source", refuse)
    monkeypatch.setattr(from_database, "answer", refuse)
    for count in (3, 300):
        assert layer(tokens(TINY, count)).shape == (count, TINY.hidden)
