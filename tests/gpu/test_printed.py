"""What the compiled template prints of its kernels. `MOETUNE_GOLDEN=1` renews the golden files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.gpu.test_former import GOLDEN
from tests.programs import SMALL
from tuner.codegen.compile import compile_source
from tuner.codegen.render import render, write_if_changed
from tuner.gpu import former
from tuner.gpu.program import layer_program
from tuner.problem import Problem
from tuner.space.variant import default_variant
from tuner.target import named

pytestmark = [pytest.mark.compiler, pytest.mark.slow]

_KERNEL = re.compile(r"^(//// kernel (\S+) [^\n]+\n).*?^//// end$", re.MULTILINE | re.DOTALL)
FORMS = {
    "biases, shared, without a gate": {"activation": "relu", "shared_dim": 64, "expert_bias": True},
    "biases, shared": {"shared_dim": 128, "expert_bias": True, "router_bias": True},
}


def printed(problem: Problem, tokens: int) -> str:
    """What the default for a token count prints."""
    card = named("nvidia-h100")
    text = render(problem, default_variant(problem, card, tokens=tokens)).text
    return compile_source(text, card).path.read_text()


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gpt-oss-20b", 256),
        ("deepseek-v3", 256),
        ("classic-moe", 256),
        ("gpt-oss-20b_stream", 1),
        ("gpt-oss-20b_cluster", 4096),
    ],
)
def test_golden_programs(name: str, tokens: int, cache: Path) -> None:
    problem = Problem.preset(name.partition("_")[0]).replace(dtype="bfloat16")
    text = printed(problem, tokens)
    head = _KERNEL.sub(lambda m: f"{m[1]}.visible .entry {m[2]}(\n//// end", text)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("MOETUNE_GOLDEN"):
        write_if_changed(path, head)
    assert head == path.read_text()
    layer_program(problem, text, name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [1, 256])
def test_all_forms_are_packed_as_those_of_before(form: str, tokens: int, cache: Path) -> None:
    problem = SMALL.replace(correction_bias=True, **FORMS[form])
    program = layer_program(problem, printed(problem, tokens), form)
    assert program.packing.digest == former.packing(problem).digest
