"""How many threads share a call is a matter of where it runs: one binary serves any number of cores."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.cpu.test_kernel import run
from tests.kernels import TINY, kernel, tokens
from tests.shipped import record
from tuner.bundle.build import build
from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.cpu.kernel import Kernel
from tuner.host import cores
from tuner.measure import reference
from tuner.measure.bench import Entrant
from tuner.measure.cpu_bench import CpuBench
from tuner.problem.weights import Weights
from tuner.runtime.engine import kernel_of
from tuner.runtime.from_database import Tuned
from tuner.space.variant import default_variant
from tuner.target import Target, detect

pytestmark = pytest.mark.compiler

WEIGHTS = Weights.random(TINY, 3).check(TINY)
X = tokens(TINY, 57)
RIGHT = reference.moe(TINY, WEIGHTS, X)

Allow = Callable[[int], None]


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Allow:
    """Has this process think that it may use so many cores."""
    monkeypatch.setattr(cores, "cores_within", lambda count: count)

    def allowed(count: int) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(count)))

    return allowed


def built_for(count: int) -> Path:
    """The default of a machine with so many cores."""
    target = dataclasses.replace(detect(), cores=count)
    return compile_source(render(TINY, default_variant(TINY, target)).text, target).path


@pytest.mark.parametrize("here", [1, 2, 5, 256])
def test_a_kernel_has_a_thread_for_each_core_that_it_may_use(allow: Allow, here: int) -> None:
    allow(here)
    made = Kernel(built_for(2), TINY)
    assert made.workers == here
    np.testing.assert_allclose(run(made, WEIGHTS, 57), RIGHT, atol=1e-4)


def test_a_binary_does_not_depend_on_the_cores_it_is_built_for() -> None:
    assert built_for(1) == built_for(2) == built_for(64)


def test_a_kernel_has_at_most_the_threads_that_it_is_given(allow: Allow) -> None:
    allow(4)
    assert [Kernel(built_for(2), TINY, n).workers for n in (1, 3, 4, 9)] == [1, 3, 4, 4]


def test_a_quota_of_one_processor_gives_one_thread(
    allow: Allow, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow(4)
    monkeypatch.setattr(cores, "cores_within", lambda count: 1)
    assert Kernel(built_for(2), TINY).workers == 1


@pytest.mark.parametrize("here", [1, 3])
def test_a_layer_uses_the_cores_of_where_it_runs(allow: Allow, tmp_path: Path, here: int) -> None:
    """Its binary is there before, of a machine with two."""
    winner = record(tmp_path / "t.sqlite3")
    allow(here)
    layer = tuner.load(TINY, WEIGHTS, tmp_path / "t.sqlite3")
    assert layer.selection(57).variant == winner.name
    np.testing.assert_allclose(layer(X), RIGHT, atol=1e-4)
    catalogue = Tuned(TINY, tmp_path / "t.sqlite3")
    assert kernel_of(catalogue, layer.selection(57)).workers == here


def test_a_layer_has_no_more_threads_than_won(allow: Allow, tmp_path: Path) -> None:
    """One thread won: another selection of the same binary has all."""
    record(tmp_path / "one.sqlite3", workers=1)
    record(tmp_path / "all.sqlite3")
    allow(3)
    found = []
    for name in ("one", "all"):
        catalogue = Tuned(TINY, tmp_path / f"{name}.sqlite3")
        found.append(kernel_of(catalogue, catalogue.select(57, "uniform", None)))
    assert [made.workers for made in found] == [1, 3]
    assert found[0].path == found[1].path


def test_a_bundle_uses_the_cores_of_where_it_runs(allow: Allow, tmp_path: Path) -> None:
    path = tmp_path / "one.moe"
    one = dataclasses.replace(detect(), cores=1)
    path.write_bytes(build([TINY], [one], tmp_path / "none.sqlite3"))
    allow(3)
    layer = tuner.load(path, WEIGHTS, trust="unsigned")
    np.testing.assert_allclose(layer(X), RIGHT, atol=1e-4)
    assert {bucket.selection.config["workers"] for bucket in layer._dispatch.buckets} == {0}
    catalogue = layer._catalogue
    assert kernel_of(catalogue, layer.selection(57)).workers == 3


def test_entrants_of_one_binary_have_the_threads_that_they_ask_for(allow: Allow) -> None:
    allow(4)
    target: Target = dataclasses.replace(detect(), cores=4)
    bench = CpuBench(TINY, target, 1, lambda target: Path())
    path = kernel(TINY).path
    kernels = [bench.kernel(Entrant(path, "v", workers=workers)) for workers in (0, 1, 2, 4)]
    assert [made.workers for made in kernels] == [4, 1, 2, 4]
    assert kernels[0] is kernels[3]
