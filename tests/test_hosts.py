"""What moetune makes of other machines than this one. All tests run on them by `make test-hosts`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.hosts import HOSTS, on
from tuner.codegen.render import render
from tuner.host.cores import pool_size
from tuner.problem import PRESETS
from tuner.select.select import best_config
from tuner.space.variant import default_variant
from tuner.target import can_run, compile_flags, detect, features, level, named, simd_bytes, target
from tuner.tune.builder import split_cores

# Name -> vendor, architecture, cores, level, width of a vector in bytes, L2.
SEEN = {
    "znver2": ("amd", "znver2", 8, "x86-64-v3", 32, 512 << 10),
    "znver3": ("amd", "znver3", 8, "x86-64-v3", 32, 512 << 10),
    "znver4": ("amd", "znver4", 8, "x86-64-v4", 64, 1 << 20),
    "sapphirerapids": ("intel", "sapphirerapids", 8, "x86-64-v4", 64, 2 << 20),
    "graviton3": ("arm", "neoverse-v1", 8, "generic", 16, 1 << 20),
    "1-core": ("amd", "znver4", 1, "x86-64-v4", 64, 1 << 20),
    "128-cores": ("amd", "znver4", 128, "x86-64-v4", 64, 1 << 20),
    "1-cpu-quota": ("amd", "znver4", 1, "x86-64-v4", 64, 1 << 20),
}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Iterator[None]:
    with on(HOSTS[request.param]):
        yield


@pytest.mark.parametrize("name", HOSTS)
def test_what_is_seen_of_it(name: str) -> None:
    with on(HOSTS[name]):
        seen = detect()
    found = (seen.vendor, seen.arch, seen.cores, level(seen), simd_bytes(seen), seen.l2_bytes)
    assert found == SEEN[name]


@pytest.mark.usefixtures("host")
def test_every_model_has_a_default_there() -> None:
    for preset, dtype in itertools.product(PRESETS.values(), ("float32", "bfloat16")):
        problem = preset.replace(dtype=dtype)
        for tokens in (1, 128):
            default = default_variant(problem, detect(), tokens=tokens)
            assert pool_size(default.config["workers"], detect().cores) == detect().cores
            assert render(problem, default).text
            assert best_config(problem, tokens).match


@pytest.mark.usefixtures("host")
def test_it_runs_what_is_compiled_for_it() -> None:
    here = detect()
    assert compile_flags(here)[:2] == ("--target-cpu", here.arch)
    for arch in target.supported():
        runs = arch in ("generic", level(here), *features.older(level(here)))
        assert can_run(here, named(arch).features) == runs


def test_a_process_may_be_kept_on_some_of_its_cores() -> None:
    before = os.sched_getaffinity(0)
    with on(HOSTS["znver4"]):
        os.sched_setaffinity(0, {5, 7})
        assert detect().cores == len(os.sched_getaffinity(0)) == 2
        with pytest.raises(OSError, match="Invalid argument"):
            os.sched_setaffinity(0, {8})
    assert os.sched_getaffinity(0) == before


def test_where_time_is_rationed_builds_wait_for_the_measurements() -> None:
    with on(HOSTS["1-cpu-quota"]):
        assert split_cores(1).spare == frozenset()
    with on(HOSTS["znver4"]):
        assert split_cores(1).spare == set(range(1, 8))


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["znver2", "znver3", "znver4", "sapphirerapids"])
def test_the_compiler_knows_the_same_features(name: str) -> None:
    """Of those that code uses."""
    with on(HOSTS[name]):
        seen = set(detect().features)
    wanted = set(named(name).features)
    assert wanted ^ seen <= features.UNUSED_BY_CODE
