from __future__ import annotations

import pytest

from tuner.codegen import probes
from tuner.measure.probe import Probe
from tuner.target import detect
from tuner.target.roofline import Ceilings


def test_the_roofline_tells_which_ceiling_binds() -> None:
    limits = Ceilings(fma_gflop_s=100.0, read_gb_s=10.0)
    assert limits.floor_ns(2000, 100) == (20.0, "fma")
    assert limits.floor_ns(1000, 200) == (20.0, "read")
    assert limits.floor_ns(2000, 100, pairs=True) == (20.0, "fma")
    both = Ceilings(fma_gflop_s=100.0, read_gb_s=10.0, dot_gflop_s=200.0)
    assert both.floor_ns(4000, 100, pairs=True) == (20.0, "dot")
    assert both.floor_ns(4000, 100) == (40.0, "fma")


def test_what_was_probed_beside_a_measurement_takes_the_place_of_a_ceiling() -> None:
    limits = Ceilings(fma_gflop_s=100.0, read_gb_s=10.0, dot_gflop_s=200.0)
    assert limits.at_the_moment(0.0, 0.0, pairs=True) == limits
    assert limits.at_the_moment(5.0, 90.0, pairs=False) == Ceilings(90.0, 5.0, 200.0)
    assert limits.at_the_moment(0.0, 90.0, pairs=True) == Ceilings(100.0, 10.0, 90.0)


@pytest.mark.compiler
def test_the_details_are_ordered_as_caches_are() -> None:
    rows = {
        name: value
        for name, value, _ in Probe(detect(), probes.of_cpu(detect())).details(repeats=5)
    }
    assert rows["read L1d 1 core"] > rows["read 1 core"] > 0.5
    assert 0.01 < rows["handoff phase"] < rows["handoff wake"]


@pytest.mark.compiler
def test_the_probe_measures_rates_that_a_processor_can_have() -> None:
    target = detect()
    found = Probe(target, probes.of_cpu(target)).ceilings(bursts=1, repeats=3)
    # Between a tenth of a core at 1 GHz with 4 lanes and 32 lanes, 2 units at 6 GHz on each.
    assert 0.8 < found.fma_gflop_s / target.cores < 800
    assert 0.5 < found.read_gb_s < 2000
    if "avx512bf16" in target.features:
        assert 1.0 < found.dot_gflop_s / found.fma_gflop_s < 4.1
    else:
        assert found.dot_gflop_s == 0
