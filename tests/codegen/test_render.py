"""Rendering needs no compiler. `MOETUNE_GOLDEN=1 pytest tests/codegen/test_render.py` renews golden sources."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import REDUCED
from tests.space.test_space import ZEN
from tuner.codegen.render import is_current, render, write_if_changed
from tuner.problem import Problem
from tuner.space import templates
from tuner.space.variant import default_variant, make, source_config
from tuner.target import named

GOLDEN = Path(__file__).parents[1] / "golden"
SHOWN = ("granite-3.0-1b-a400m", "gpt-oss-20b", "deepseek-v3", "classic-moe")


def source(problem: Problem, **changes: int) -> str:
    default = default_variant(problem, ZEN)
    return render(problem, make(default.template, {**default.config, **changes})).text


@pytest.mark.parametrize("name", SHOWN)
def test_golden(name: str) -> None:
    path = GOLDEN / f"moe_cpu_{name}.mojo"
    text = source(REDUCED[name])
    if os.environ.get("MOETUNE_GOLDEN"):
        write_if_changed(path, text)
    assert text == path.read_text()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gpt-oss-20b", 256),
        ("deepseek-v3", 256),
        ("classic-moe", 256),
        ("gpt-oss-20b", 1),
        ("gpt-oss-20b", 4096),
    ],
)
def test_golden_of_a_gpu(name: str, tokens: int) -> None:
    form = {1: "_stream", 4096: "_cluster"}.get(tokens, "")
    path = GOLDEN / f"moe_gpu_{name}{form}.mojo"
    text = of_gpu(Problem.preset(name), tokens)
    if os.environ.get("MOETUNE_GOLDEN"):
        write_if_changed(path, text)
    assert text == path.read_text()


def of_gpu(problem: Problem, tokens: int = 256) -> str:
    problem = problem.replace(dtype="bfloat16")
    return render(problem, default_variant(problem, named("nvidia-h100"), None, tokens)).text


def test_structure_of_a_gpu_s_source_follows_the_problem() -> None:
    assert "keep_groups" not in of_gpu(Problem.preset("qwen3-30b-a3b"))
    assert "total += router_bias" in of_gpu(Problem.preset("gpt-oss-20b"))
    assert "comptime SHARED_DIM = 2048" in of_gpu(Problem.preset("deepseek-v3"))
    assert "{%" not in of_gpu(Problem.preset("olmoe-1b-7b"))


def test_the_label_of_a_problem_changes_nothing() -> None:
    problem = REDUCED["mixtral-8x7b"]
    assert source(problem) == source(problem.replace(name="other"))


def test_another_process_renders_the_same_bytes() -> None:
    code = (
        "import sys; from tests.codegen.test_render import source, REDUCED;"
        "sys.stdout.write(source(REDUCED['olmoe-1b-7b']))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root,
        env=os.environ | {"PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout == source(REDUCED["olmoe-1b-7b"])


def test_every_tunable_reaches_the_source() -> None:
    problem = REDUCED["granite-3.0-1b-a400m"]
    default = default_variant(problem, ZEN)
    for name, value in source_config(default).items():
        assert f"comptime {name.upper()} = {value}" in source(problem), name


def test_variants_that_differ_in_their_threads_alone_have_one_source() -> None:
    problem = REDUCED["granite-3.0-1b-a400m"]
    default = default_variant(problem, ZEN)
    assert set(default.config) - set(source_config(default)) == {"workers"}
    assert source(problem, workers=1) == source(problem, workers=7) == source(problem)


def test_structure_follows_the_problem() -> None:
    assert "keep_groups" not in source(REDUCED["mixtral-8x7b"])
    assert "keep_groups" in source(REDUCED["deepseek-v3"])
    assert "ARG_ROUTER_BIAS)" in source(REDUCED["gpt-oss-20b"])
    assert "comptime GATED = False" in source(REDUCED["classic-moe"])


def test_no_jinja_is_left() -> None:
    for problem in REDUCED.values():
        assert "{%" not in source(problem)
        assert "{{" not in source(problem)


def test_what_was_stored_is_current_by_its_source_or_by_the_template_s_history() -> None:
    problem = REDUCED["olmoe-1b-7b"]
    variant = default_variant(problem, ZEN)
    made = render(problem, variant)
    now, former = templates.digest("moe_cpu"), "9a02fb168b05a4e2"
    told = [
        is_current(problem, variant, source, template)
        for source, template in ((made.digest, now), (made.digest, "t0"), ("0", former), ("0", now))
    ]
    assert told == [True, True, True, False]
    other = dataclasses.replace(made, text=made.text.replace("# Variant", "# It is"))
    assert other.digest == made.digest


def test_a_file_is_written_only_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.mojo"
    assert write_if_changed(path, "x")
    before = path.stat().st_mtime_ns
    assert not write_if_changed(path, "x")
    assert path.stat().st_mtime_ns == before
    assert write_if_changed(path, "y")
