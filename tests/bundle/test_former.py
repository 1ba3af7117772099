"""A bundle whose libraries have their number of threads compiled in: tests/former holds one, for x86-64-v3."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import tuner
from tests.kernels import TINY, tokens
from tuner.bundle.catalogue import BundleCatalogue, open_bundle
from tuner.bundle.install import OK, install
from tuner.bundle.reader import read_bundle
from tuner.cpu.kernel import FORMER_ABI
from tuner.measure import reference
from tuner.measure.probe import Probe
from tuner.problem.weights import Weights
from tuner.runtime.engine import kernel_of
from tuner.target import can_run, detect

PATH = Path(__file__).parents[1] / "former" / "bundle.moe"


@pytest.fixture
def catalogue() -> BundleCatalogue:
    (part,) = read_bundle(PATH, "unsigned").manifest.sections[0].parts
    if not can_run(detect(), part.target.features):
        pytest.skip("this processor does not run code for x86-64-v3")
    return open_bundle(PATH, "unsigned")


def test_it_says_what_its_libraries_do(catalogue: BundleCatalogue) -> None:
    assert catalogue.bundle.manifest.abi == FORMER_ABI
    assert {build.config["workers"] for build in catalogue.part.builds.values()} == {2}


def test_its_kernels_run_with_the_threads_that_they_were_built_with(
    catalogue: BundleCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)))
    weights = Weights.random(TINY, 3)
    layer = tuner.load(PATH, weights, trust="unsigned")
    for count in (1, 57, 200):
        x = tokens(TINY, count)
        right = reference.moe(TINY, weights.check(TINY), x)
        np.testing.assert_allclose(layer(x), right, atol=1e-4)
        assert kernel_of(catalogue, layer.selection(count)).workers == 2


def test_it_installs(catalogue: BundleCatalogue) -> None:
    assert install(PATH, "unsigned").verdict == OK


def test_its_probe_measures(catalogue: BundleCatalogue) -> None:
    probe = Probe(catalogue.host, catalogue.member(catalogue.part.probe))
    assert probe.fma_gflop_s(brief=True) > 0
    assert probe.phase_us() > 0
