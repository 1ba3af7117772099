"""How a Problem and Weights show themselves: in a line, and as a table in a notebook."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import REDUCED, TINY
from tuner.problem import PRESETS, Problem
from tuner.problem.weights import Weights


def test_a_problem_is_its_fields_that_are_not_the_usual_ones() -> None:
    assert repr(TINY) == "Problem(hidden=48, expert_dim=40, num_experts=4, top_k=2, name='tiny')"
    mixed = TINY.replace(dtype="bfloat16", weight_dtype="float32", name="a\nb")
    assert repr(mixed).endswith("dtype='bfloat16', weight_dtype='float32', name='a\\nb')")


@pytest.mark.parametrize("problem", [*PRESETS.values(), *REDUCED.values()], ids=lambda p: p.name)
def test_what_it_shows_makes_it_again(problem: Problem) -> None:
    for dtype in ("float32", "bfloat16"):
        shown = repr(problem.replace(dtype=dtype))
        assert eval(shown) == problem.replace(dtype=dtype)
        assert len(shown) < 240


def test_weights_show_shapes_and_no_numbers() -> None:
    assert repr(Weights.random(TINY, seed=0)) == (
        "Weights(router: [4, 48] float32, up: [4, 40, 48] float32, down: [4, 48, 40] float32, "
        "gate: [4, 40, 48] float32)"
    )
    odd = Weights(router=[1.0], up=np.ones(2, np.float16), down="x")
    assert repr(odd) == "Weights(router: ? list, up: [2] float16, down: ? str)"


def test_tables_for_notebooks() -> None:
    made = TINY.replace(name="<b>")._repr_html_()
    assert "Problem &lt;b&gt;</caption>" in made
    assert ">hidden</th>" in made
    assert ">48</td>" in made
    assert ">[4, 40, 48]</td>" in Weights.random(TINY, seed=0)._repr_html_()
