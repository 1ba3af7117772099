from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.kernels import TINY, variant
from tuner.codegen.compile import Binary
from tuner.codegen.render import render
from tuner.errors import CompileError
from tuner.host.interference import busy_ticks
from tuner.measure.trial import Build
from tuner.problem import Problem
from tuner.space.variant import Variant
from tuner.target import Target, detect
from tuner.tune.builder import Builder, Cores, split_cores

ONE, OTHER = variant(TINY), variant(TINY, {"chunks": 4})


class Compiler:
    """Runs of 50 ms, and where they ran."""

    def __init__(self, cached: bool = False) -> None:
        self.cached = cached
        self.running = 0
        self.most = 0
        self.cores: list[set[int]] = []
        self.runs: list[list[Variant]] = []
        self._lock = threading.Lock()

    def __call__(self, problem: Problem, target: Target, made: Sequence[Variant]) -> list[Build]:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.cores.append(os.sched_getaffinity(0))
            self.runs.append(list(made))
        time.sleep(0.05)
        with self._lock:
            self.running -= 1
        return [self._build(problem, variant) for variant in made]

    def _build(self, problem: Problem, variant: Variant) -> Build:
        binary = Binary(Path(f"{variant.name}.so"), variant.name, 0.05, self.cached)
        return Build(render(problem, variant), binary, "ok", "", 0.0, 50.0)


def builder(compiler: Compiler, spare: frozenset[int] = frozenset()) -> Builder:
    return Builder(TINY, detect(), Cores(frozenset({0, 1}), spare), compiler)


def test_a_variant_is_built_once() -> None:
    compiler = Compiler()
    with builder(compiler) as pool:
        assert pool.submit(ONE) is pool.submit(ONE)
        assert pool.get(ONE).binary is not None
        assert (pool.variants, pool.compiled, len(compiler.cores)) == ([ONE], 1, 1)


def test_what_the_cache_had_was_not_compiled() -> None:
    with builder(Compiler(cached=True)) as pool:
        pool.get(ONE)
        assert pool.compiled == 0


def test_without_a_spare_core_nothing_builds_while_something_is_measured() -> None:
    compiler = Compiler()
    with builder(compiler) as pool:
        pool.submit(OTHER)
        pool.submit(ONE)
        pool.get(OTHER)
        assert compiler.running == 0
        assert compiler.most == 2
        assert pool.waited_s >= 0.04


def test_with_spare_cores_builds_go_on_there() -> None:
    core = frozenset({max(os.sched_getaffinity(0))})
    mine = os.sched_getaffinity(0)
    compiler = Compiler()
    with builder(compiler, spare=core) as pool:
        pool.submit(ONE)
        pool.start()
        pool.submit(OTHER)
        pool.get(ONE)
        assert not pool.submit(OTHER).done()
    assert compiler.cores[0] == core
    assert os.sched_getaffinity(0) == mine


def test_spare_cores_share_no_units_with_those_that_measure() -> None:
    threads = frozenset(range(8))
    alone = split_cores(2, threads, lambda core: frozenset({core}))
    assert (alone.measuring, alone.spare) == ({0, 1}, {2, 3, 4, 5, 6, 7})
    paired = split_cores(2, threads, lambda core: frozenset({core, (core + 4) % 8}))
    assert paired.spare == {2, 3, 6, 7}
    assert split_cores(8, threads, lambda core: frozenset({core})).spare == frozenset()


def test_each_core_is_counted_by_itself() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert len(list(busy_ticks(cores))) == len(cores)
    assert len(list(busy_ticks(cores[:1]))) == 1
    assert list(busy_ticks(())) == []


def test_what_waits_is_dealt_evenly_and_compiled_in_one_run_each() -> None:
    variants = [variant(TINY, {"chunks": n}) for n in (1, 2, 4, 8)]
    compiler = Compiler()
    with builder(compiler) as pool:
        futures = [pool.submit(each) for each in variants]
        assert compiler.cores == []
        pool.start()
        assert [future.result().source.name for future in futures] == [v.name for v in variants]
        assert (pool.compiled, len(compiler.cores)) == (4, 2)


def test_variants_of_one_source_are_built_in_one_run() -> None:
    one = [variant(TINY, {"workers": n}) for n in (0, 1, 4)]
    compiler = Compiler()
    with builder(compiler) as pool:
        for each in (one[0], OTHER, *one[1:]):
            pool.submit(each)
        pool.settle()
    assert sorted(compiler.runs, key=len) == [[OTHER], one]


def test_an_error_of_a_run_is_raised_for_each_of_its_variants() -> None:
    def missing(problem: Problem, target: Target, made: Sequence[Variant]) -> list[Build]:
        raise CompileError("mojo: not found")

    with Builder(TINY, detect(), Cores(frozenset({0}), frozenset()), missing) as pool:
        pool.submit(ONE)
        pool.submit(OTHER)
        for each in (ONE, OTHER):
            with pytest.raises(CompileError, match="not found"):
                pool.get(each)
