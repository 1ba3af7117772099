"""What to type now: lines that mean the very problem, and nothing that a label could slip into a shell."""

from __future__ import annotations

import dataclasses
import shlex

import pytest

import tuner
from tests.rows import PROBLEM, TARGET
from tuner.cli.options import read_model
from tuner.problem import PRESETS, Problem
from tuner.report.next_steps import spelling, steps
from tuner.target import Target

GPU = Target("nvidia", "sm_90a", (), 132, 0, 0, 0, kind="gpu", accelerator="nvidia-h100")
_FIELDS = {
    "--hidden": "hidden", "--expert-dim": "expert_dim", "--experts": "num_experts",
    "--top-k": "top_k", "--activation": "activation", "--dtype": "dtype",
    "--weight-dtype": "weight_dtype",
}  # fmt: skip


def meant(words: str) -> Problem:
    """What the command line makes of words."""
    parts = shlex.split(words)
    name = None if parts[0].startswith("--") else parts.pop(0)
    given = dict(zip(parts[::2], parts[1::2], strict=True))
    changes = {
        _FIELDS[option]: int(value) if value.isdigit() else value for option, value in given.items()
    }
    return read_model(name, changes).problem


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (PRESETS["mixtral-8x7b"], "mixtral-8x7b"),
        (PRESETS["deepseek-v3"].replace(num_experts=16, dtype="bfloat16"),
         "deepseek-v3 --experts 16 --dtype bfloat16"),
        (PRESETS["mixtral-8x7b"].replace(dtype="bfloat16", weight_dtype="float32"),
         "mixtral-8x7b --dtype bfloat16 --weight-dtype float32"),
        (PROBLEM, "--hidden 64 --expert-dim 32 --experts 8 --top-k 2"),
        (PROBLEM.replace(activation="relu", dtype="float16"),
         "--hidden 64 --expert-dim 32 --experts 8 --top-k 2 --activation relu --dtype float16"),
    ],
)  # fmt: skip
def test_words_and_python_mean_the_problem(problem: Problem, words: str) -> None:
    named = spelling(problem)
    assert named.words == words
    assert meant(words) == problem
    assert eval(named.python, {"tuner": tuner}) == problem


def test_what_no_option_says_comes_from_its_file() -> None:
    named = spelling(PROBLEM.replace(score="sigmoid", dtype="bfloat16"))
    assert named.words == "path/to/config.json --dtype bfloat16"
    assert named.python == ('tuner.Problem.from_hf_config("path/to/config.json", dtype="bfloat16")')


def test_the_steps_of_a_processor() -> None:
    preset = PRESETS["mixtral-8x7b"]
    told = {step.purpose: step.text for step in steps(preset, TARGET, [128, 1, 128])}
    assert told == {
        "Run it": (
            'import tuner\n\nproblem = tuner.Problem.preset("mixtral-8x7b")\n'
            "layer = tuner.load(problem, weights)\ny = layer(x)"
        ),
        "Ship it as one signed file": (
            "moetune bundle build mixtral-8x7b --target znver3 -o mixtral-8x7b.moe --key KEY"
        ),
        "Tune on": "moetune tune mixtral-8x7b --tokens 1,128 --time 10m",
        "Compare it with other libraries": "moetune bench mixtral-8x7b --tokens 1,128",
        "See whether it still wins": "moetune audit mixtral-8x7b",
    }


def test_without_a_winner_there_is_nothing_to_ship() -> None:
    purposes = [step.purpose for step in steps(PROBLEM, TARGET, [])]
    assert purposes == ["Run it", "Tune on", "Compare it with other libraries"]


def test_the_steps_of_a_gpu() -> None:
    told = [step.text for step in steps(PRESETS["mixtral-8x7b"], GPU, [1])]
    assert told[0].endswith('layer = tuner.load(problem, weights, device="cuda:0")\ny = layer(x)')
    assert told[1:] == [
        "moetune bundle build mixtral-8x7b --target nvidia-h100 -o mixtral-8x7b.moe --key KEY",
        "moetune tune mixtral-8x7b --tokens 1 --time 10m --target nvidia-h100",
    ]


def test_labels_cannot_leave_their_word() -> None:
    target = dataclasses.replace(GPU, accelerator="h100; reboot")
    problem = PROBLEM.replace(name="a/../b; $(reboot)")
    ship = steps(problem, target, [1])[1].text
    assert ship.endswith("--target 'h100; reboot' -o a-..-b----reboot.moe --key KEY")
