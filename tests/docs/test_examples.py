"""The programs in examples/ run, and print what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tuner.bundle.reader import read_bundle
from tuner.target import can_run, detect

EXAMPLES = ROOT / "examples"
# layer.c has a test beside those of the C interface; max_graph.py compiles a graph, which takes minutes.
ELSEWHERE = {"README.md", "layer.c", "max_graph.py"}


def example(name: str, cwd: Path, *arguments: str) -> list[str]:
    """The lines that an example prints, run in an empty folder, where nothing was tuned and nothing ships."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        cwd=cwd, env=os.environ | {"PYTHONPATH": paths, "MOETUNE_SHIPPED": "0"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.compiler
def test_run_layer(tmp_path: Path) -> None:
    first, routed, kernel = example("run_layer.py", tmp_path)
    assert first.endswith("x [16, 256] -> y [16, 256]")
    assert routed.startswith("token 0 went to experts [")
    assert kernel == "kernel for 16 tokens: default"


def test_best_config(tmp_path: Path) -> None:
    said = example("best_config.py", tmp_path, "classic-moe")
    assert said[0].startswith("classic-moe: D=")
    assert [line.split()[:3] for line in said[1::2]] == [
        [tokens, "tokens", "default"] for tokens in ("1", "16", "128", "1024")
    ]


@pytest.mark.compiler
def test_record_trace(tmp_path: Path) -> None:
    calls, command = example("record_trace.py", tmp_path)
    assert calls == "22 calls, by octave of token counts: {1: 20, 64: 2}"
    assert "--load trace:traffic.jsonl --tokens from-trace" in command
    assert len((tmp_path / "traffic.jsonl").read_text().splitlines()) == 3


def test_run_bundle(tmp_path: Path) -> None:
    bundle = ROOT / "tests" / "former" / "bundle.moe"
    (part,) = read_bundle(bundle, "unsigned").manifest.sections[0].parts
    if not can_run(detect(), part.target.features):
        pytest.skip("this processor does not run code for x86-64-v3")
    said = example("run_bundle.py", tmp_path, str(bundle), "unsigned")
    assert said[0] == "<Layer tiny: D=48 F=40 E=4 k=2, swiglu, softmax, float32"
    assert said[-1].startswith("x [16, 48] -> y [16, 48], by moe_cpu_")


@pytest.mark.compiler
def test_transformers_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    places, difference = example("transformers_model.py", tmp_path)
    assert places == "replaced: model.layers.0.mlp, model.layers.1.mlp"
    assert float(difference.split()[-1]) < 1e-5


def test_every_example_is_tested() -> None:
    tested = {f"{name.removeprefix('test_')}.py" for name in globals() if name.startswith("test_")}
    assert {p.name for p in EXAMPLES.iterdir() if p.is_file()} <= tested | ELSEWHERE
