"""The small template in examples/kernel, as docs/contributing.md shows it: it renders, and it is correct."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from tests.kernels import TINY
from tuner.codegen import render
from tuner.codegen.compile import compile_source
from tuner.codegen.render import HEADER
from tuner.cpu.kernel import Kernel
from tuner.measure import right_answers, verify
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.space.space import load, resolve
from tuner.target import detect

PROBLEMS = {
    "softmax": TINY,
    "topk_softmax": TINY.replace(score="topk_softmax", hidden=160, expert_dim=104),
    "relu": TINY.replace(activation="relu"),
    "groups": TINY.replace(score="sigmoid", num_groups=2, correction_bias=True, router_bias=True),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The templates with the example among them, as a contributor has them."""
    folder = tmp_path_factory.mktemp("with") / "templates"
    shutil.copytree(ROOT / "templates", folder)
    for path in (ROOT / "examples" / "kernel").iterdir():
        shutil.copy(path, folder)
    return folder


def built(place: Path, problem: Problem) -> Kernel:
    """The default variant of the example."""
    space = resolve(load("moe_plain", place / "moe_plain.toml"), problem, detect(), 16)
    text = render.fill("moe_plain", {"problem": problem, **space.default}, place)
    return Kernel(compile_source(HEADER + text, detect()).path, problem)


@pytest.mark.compiler
@pytest.mark.parametrize("name", PROBLEMS)
def test_it_is_correct(name: str, place: Path) -> None:
    problem = PROBLEMS[name]
    layer = built(place, problem)
    weights = Weights.random(problem, seed=1).check(problem)
    expected = tuple(
        right_answers.expect(problem, weights, case)
        for case in right_answers.cases(problem, 70, 12, seed=1)
    )
    verdict = verify.verify(layer, layer.pack(weights), expected)
    assert verdict.ok, verdict.message
    assert np.isfinite(verdict.worst)


def test_the_page_shows_its_space() -> None:
    (shown,) = blocks(ROOT / "docs" / "contributing.md", "toml")
    text = (ROOT / "examples" / "kernel" / "moe_plain.toml").read_text()
    assert shown.text == text[text.index("description") :]
