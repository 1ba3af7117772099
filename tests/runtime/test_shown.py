"""How a layer shows itself: in two lines, and as a table in a notebook."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import tuner
from tests.kernels import TINY
from tests.programs import Two
from tuner.cpu.worker_pool import REGION
from tuner.runtime import shown
from tuner.runtime.dispatch import buckets


def test_a_layer_in_two_lines(tmp_path: Path) -> None:
    found = buckets(lambda tokens: Two(tmp_path).select(tokens, "uniform", None))
    problem = TINY.replace(name="a\nb")
    assert shown.line("GpuLayer", problem, "cuda:0", found) == (
        "<GpuLayer a\\nb: D=48 F=40 E=4 k=2, swiglu, softmax, float32\n"
        " 2 kernels on cuda:0, match exact>"
    )


def test_a_layer_as_a_table(tmp_path: Path) -> None:
    found = buckets(lambda tokens: Two(tmp_path).select(tokens, "uniform", None))
    made = shown.table("GpuLayer", TINY.replace(name="<b>"), "cuda:0", found)
    assert "GpuLayer &lt;b&gt;: D=48" in made
    for cell in ("1 to 8", "9 and more", "exact", "small", "large"):
        assert f">{cell}</t" in made


@pytest.mark.compiler
def test_a_layer_shows_itself_while_a_call_runs() -> None:
    layer = tuner.load(TINY, tuner.Weights.random(TINY, seed=0))
    said: list[str] = []
    with REGION:
        asking = threading.Thread(target=lambda: said.extend((repr(layer), layer._repr_html_())))
        asking.start()
        asking.join(timeout=60)
    assert said[0].startswith("<Layer tiny: D=48 F=40 E=4 k=2, swiglu, softmax, float32\n ")
    assert said[0].endswith("on the CPU, match default>")
    assert ">default</td>" in said[1]
