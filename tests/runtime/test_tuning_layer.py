"""A layer that tunes itself: when sessions begin, what they leave, and that calls are right all the while."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, tokens
from tests.programs import Two
from tests.shipped import record
from tuner.errors import UsageError
from tuner.host.process import Completed
from tuner.measure import reference
from tuner.runtime.tuning_layer import Asked, TuningLayer
from tuner.store.database import Database
from tuner.target import detect

ROOT = Path(__file__).parents[2]
WEIGHTS = tuner.Weights.random(TINY, seed=0)
DONE = Completed(0, "", "", 1.0, False)
REFUSED = Completed(1, "", "mojo: not found\n", 1.0, False)


class Fake:
    """A Layer that computes nothing; what it selects is near those counts that were tuned."""

    def __init__(self, tuned: Sequence[int]) -> None:
        self.problem, self.load, self.tuned = TINY, "uniform", list(tuned)

    def __call__(self, x: Any, return_routing: bool = False, out: Any = None) -> Any:
        return x

    def selection(self, count: int) -> Any:
        apart = min((abs(np.log2(count / t)) for t in self.tuned), default=9.0)
        match = "exact" if apart == 0 else "tokens" if apart <= 3 else "default"
        return type("Selection", (), {"match": match, "distance": apart})

    def prepare(self, counts: Any) -> None:
        self.prepared = counts


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sessions that are begun; each tunes for what it is asked."""
    begun: list[list[int]] = []

    def session(asked: Asked, counts: Sequence[int]) -> Completed:
        begun.append(list(counts))
        return DONE

    monkeypatch.setattr(Asked, "session", session)
    return begun


def made(sessions: list[list[int]], mode: str, tmp_path: Path) -> TuningLayer:
    asked = Asked(TINY, Two(tmp_path).select(1, "uniform", None).target, tmp_path, "uniform", 60.0)

    def make() -> Any:
        return Fake([count for counts in sessions for count in counts])

    return TuningLayer(make, lambda count: make().selection(count), asked, mode)


def call(layer: TuningLayer, *counts: int) -> None:
    for count in counts:
        layer(np.zeros((count, TINY.hidden), np.float32))


@pytest.mark.parametrize("mode", ["first-use", "background"])
def test_a_session_for_each_count_that_nothing_near_was_tuned_for(
    mode: str, sessions: list[list[int]], tmp_path: Path
) -> None:
    layer = made(sessions, mode, tmp_path)
    for count in (16, 16, 8, 32, 0, 33, 100, 16):  # 8 and 32 are near 16, 100 is far from 33
        call(layer, count)
        assert layer.wait(60)
    assert sessions == [[16], [33], [100]]


def test_a_call_that_is_refused_begins_none(sessions: list[list[int]], tmp_path: Path) -> None:
    layer = made(sessions, "first-use", tmp_path)
    for x in (np.zeros((4, 7)), np.zeros(48), None, [1]):
        layer(x)
    assert sessions == []


@pytest.mark.parametrize("mode", ["first-use", "background"])
def test_layers_of_one_model_tune_once(
    mode: str, sessions: list[list[int]], tmp_path: Path
) -> None:
    """They were loaded before the first session; the others take its winners."""
    layers = [made(sessions, mode, tmp_path) for _ in range(3)]
    for layer in layers:
        call(layer, 16)
    for layer in layers:
        assert layer.wait(60)
        assert layer.selection(16).match == "exact"
    assert sessions == [[16]]


def test_counts_that_are_prepared_are_one_session(
    sessions: list[list[int]], tmp_path: Path
) -> None:
    layer = made(sessions, "first-use", tmp_path)
    layer.prepare([1, 16, 1, 128])
    call(layer, 1, 16, 128, 64)
    assert sessions == [[1, 16, 128]]


@pytest.mark.parametrize("mode", ["first-use", "background"])
@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (REFUSED, "mojo: not found"),
        (Completed(3, "", "", 1.0, False), "the session ended with 3"),
        (Completed(-9, "", "", 240.0, True), "did not end in 240 s; is another tuner at work?"),
    ],
)
def test_a_session_that_fails_is_told_and_is_the_last(
    mode: str, ended: Completed, why: str, sessions: list[list[int]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Asked, "session", lambda asked, counts: sessions.append(counts) or ended)
    layer = made(sessions, mode, tmp_path)
    before = layer._layer
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        call(layer, 16)
        assert layer.wait(60)
        call(layer, 128)
        assert layer.wait(60)
    assert [str(warning.message) for warning in told] == [
        f"tune={mode!r}: {w}; the layer goes on with the kernels that it has"
        for w in [why if "240" not in why else f"the session {why}"]
    ]
    assert len(sessions) == 1
    assert layer._layer is before


def test_the_child_of_a_fork_begins_none(sessions: list[list[int]], tmp_path: Path) -> None:
    layer = made(sessions, "first-use", tmp_path)
    child = os.fork()
    if not child:
        call(layer, 16)
        os._exit(len(sessions))
    assert os.waitpid(child, 0)[1] == 0
    call(layer, 16)
    assert sessions == [[16]]


def test_calls_are_answered_while_a_session_runs(
    sessions: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background; what comes meanwhile waits for its own session."""
    going, may_end = threading.Event(), threading.Event()

    def session(asked: Asked, counts: Sequence[int]) -> Completed:
        going.set()
        assert may_end.wait(60)
        sessions.append(list(counts))
        return DONE

    monkeypatch.setattr(Asked, "session", session)
    layer = made(sessions, "background", tmp_path)
    call(layer, 16)
    assert going.wait(60)
    call(layer, 16, 128, 1)
    assert not layer.wait(0.01)
    may_end.set()
    assert layer.wait(60)
    assert sessions == [[16], [128, 1]]


def test_what_a_session_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[list[str], float]] = []
    runner: Callable[..., Completed] = lambda command, s: ran.append((command, s)) or DONE  # noqa: E731
    monkeypatch.setattr("tuner.runtime.tuning_layer.run", runner)
    asked = Asked(TINY, Two(tmp_path).select(1, "uniform", None).target, tmp_path, "uniform", 30.0)
    assert asked.session([1, 16]) == DONE
    (command, limit) = ran[0]
    assert command[1:3] == ["-m", "tuner.tune.for_layer"]
    assert limit == 240.0
    assert '"tokens": [1, 16], "load": "uniform", "time_s": 60.0' in command[3]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"tune": "often"}, "tune='often': not known; use one of first-use, background"),
        ({"tune": 1}, "tune: is 1, must be a text"),
        ({"tune": "first-use", "tune_s": 0}, "tune_s=0: must be seconds above 0"),
        ({"tune": "first-use", "tune_s": float("nan")}, "tune_s=nan: must be seconds above 0"),
        ({"tune": "first-use", "tune_s": None}, "tune_s: is None, must be"),
        ({"tune": "first-use", "device": "cuda:0"}, "tune: tunes for a CPU"),
    ],
)
def test_what_cannot_be_asked(words: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        tuner.load(TINY, WEIGHTS, **words)


def test_a_bundle_is_not_tuned() -> None:
    with pytest.raises(UsageError, match="a bundle brings its own winners"):
        tuner.load("granite.moe", WEIGHTS, tune="first-use")


def right(x: np.ndarray) -> np.ndarray:
    return reference.moe(TINY, WEIGHTS.check(TINY), x)


@pytest.mark.compiler
def test_winners_of_a_session_serve(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session here records a winner that is not the default; its kernel serves from then on."""

    def session(asked: Asked, counts: Sequence[int]) -> Completed:
        assert (asked.problem, asked.db, asked.target) == (TINY, database, detect())
        record(asked.db, tile_rows=2)
        return DONE

    monkeypatch.setattr(Asked, "session", session)
    layer = tuner.load(TINY, WEIGHTS, tune="first-use")
    before, x = layer.selection(16), tokens(TINY, 16)
    np.testing.assert_allclose(layer(x), right(x), atol=1e-4)
    after = layer.selection(16)
    assert (before.match, after.match) == ("default", "tokens")
    assert before.variant != after.variant == tuner.load(TINY, WEIGHTS).selection(16).variant
    assert repr(layer).startswith("<TuningLayer tiny: ")
    assert layer.stats().calls == 1


@pytest.mark.compiler
@pytest.mark.timed
@pytest.mark.parametrize("mode", ["first-use", pytest.param("background", marks=pytest.mark.slow)])
def test_a_layer_tunes_itself(mode: str, database: Path) -> None:
    layer = tuner.load(TINY, WEIGHTS, tune=mode, tune_s=12)
    x = tokens(TINY, 16)
    np.testing.assert_allclose(layer(x), right(x), atol=1e-4)
    assert layer.wait(300)
    np.testing.assert_allclose(layer(x), right(x), atol=1e-4)
    assert layer.selection(16).match == "exact"
    assert layer.selection(20).match == "tokens"
    with Database(database, read_only=True) as db:
        (winner,) = db.best()
        assert winner["tokens"] == 16
    assert tuner.load(TINY, WEIGHTS).selection(16).variant == layer.selection(16).variant


@pytest.mark.compiler
def test_without_a_compiler_the_layer_stays_as_it_is(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels are in the cache; the session finds no linker."""
    tuner.load(TINY, WEIGHTS).prepare([16])
    layer = tuner.load(TINY, WEIGHTS, tune="first-use", tune_s=12)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    x = tokens(TINY, 16)
    with pytest.warns(RuntimeWarning, match=r"no C linker.*goes on with the kernels that it has"):
        y = layer(x)
    np.testing.assert_allclose(y, right(x), atol=1e-4)
    assert layer.selection(16).match == "default"


ENDS = """
import sys, time
import tuner
from pathlib import Path
from tests.kernels import TINY, tokens

layer = tuner.load(TINY, tuner.Weights.random(TINY, seed=0), tune="background", tune_s=300)
layer(tokens(TINY, 16))
lock = Path(f"{sys.argv[1]}-lock")
while not lock.exists():  # the session has begun
    time.sleep(0.05)
"""


def sessions_of(database: Path) -> list[int]:
    """The processes of sessions with this database."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (place / "cmdline").read_bytes()
            if b"tuner.tune.for_layer" in words and str(database).encode() in words:
                found.append(int(place.name))
    return found


@pytest.mark.compiler
def test_a_session_ends_with_the_process(database: Path) -> None:
    """Though it has minutes left."""
    done = subprocess.run(
        [sys.executable, "-c", ENDS, database], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    end = time.monotonic() + 60
    while sessions_of(database) and time.monotonic() < end:
        time.sleep(0.05)
    assert sessions_of(database) == []
