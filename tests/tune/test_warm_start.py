from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.space import Restriction, Space
from tuner.target import Target
from tuner.tune.warm_start import Request, starts

SMALL = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2)
LARGE = SMALL.replace(hidden=1024, expert_dim=512)
HERE = Target("amd", "znver4", ("avx2",), 4, 32 << 10, 1 << 20, 32 << 20)
OLDER = dataclasses.replace(HERE, arch="znver3")
INTEL = dataclasses.replace(HERE, vendor="intel", arch="sapphirerapids")
SPACE = Space(
    "t", {"a": tuple(range(10)), "w": (1, 2, 4)}, {"a": 0, "w": 4},
    (Restriction("a < 9", "nine is too many"),), {},
)  # fmt: skip
REQUEST = Request(SMALL, HERE, Workload(64), "Mojo 1")


def row(
    a: int, tokens: int = 64, problem: Problem = SMALL, target: Target = HERE, **more: Any
) -> Any:
    """A row of the view `best` whose variant is {"a": a, "w": 4}."""
    return {
        "problem_id": problem.digest, "problem": problem.key, "target_id": target.digest,
        "target": target.key, "target_name": "", "tokens": tokens, "load": "uniform", "pack": "p",
        "template": "t", "config": {"a": a, "w": 4}, "environment": {"toolchain": "Mojo 1"}, **more,
    }  # fmt: skip


def tried(*rows: Any, most: int = 6, space: Space = SPACE) -> list[int]:
    """Parameter a of the starts, in order."""
    return [config["a"] for config in starts(rows, REQUEST, space, most)]


def test_near_token_counts_come_first() -> None:
    assert tried(row(1, 1), row(2, 128), row(3, 64), row(4, 16)) == [3, 2, 4, 1]


def test_then_other_loads_problems_and_architectures() -> None:
    bfloat16 = SMALL.replace(dtype="bfloat16")
    rows = [
        row(1, target=INTEL), row(2, problem=bfloat16), row(3, target=OLDER),
        row(4, load="zipf:1.2"), row(5, problem=LARGE), row(6),
    ]  # fmt: skip
    found = tried(*rows)
    assert found[0] == 6
    assert set(found[1:3]) == {3, 4}
    assert set(found[3:]) == {1, 2, 5}


def test_other_problems_are_compared_by_the_rows_of_an_expert() -> None:
    sparse = SMALL.replace(num_experts=64)
    assert tried(row(1, 64, sparse), row(2, 512, sparse)) == [2, 1]


def test_at_most_so_many_and_each_once() -> None:
    rows = [row(a, tokens) for tokens in (64, 128) for a in range(8)]
    assert tried(*rows, most=6) == [0, 1, 2, 3, 4, 5]
    assert tried(*rows, most=0) == []


def test_values_that_this_space_lacks_become_the_defaults() -> None:
    wide = row(3, config={"a": 3, "w": 64})
    assert starts([wide], REQUEST, SPACE, 6) == [{"a": 3, "w": 4}]


@pytest.mark.parametrize("config", [{"a": 9, "w": 4}, {"a": 3}, {"a": 3, "w": 4, "z": 1}])
def test_what_does_not_fit_is_left_out(config: dict[str, int]) -> None:
    assert starts([row(3, config=config)], REQUEST, SPACE, 6) == []


def test_what_is_too_far_away_says_nothing() -> None:
    assert tried(row(1, 64 << 10)) == []
