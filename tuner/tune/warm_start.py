"""Warm start: what won on near problems, near token counts and other machines is tried first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select import select
from tuner.select.selection import octaves
from tuner.select.winner_cache import Row, grouped
from tuner.space.space import Config, Space
from tuner.target import Target

# Prices in octaves of rows an expert, as in `select`: how unlike two problems or machines are.
OTHER_SIZE = 0.5  # for each octave of hidden or expert_dim
OTHER_DTYPE = 2.0
OTHER_EXPERT = 0.5
# Further than this a winner says nothing.
FURTHEST = 8.0


@dataclass(frozen=True)
class Request:
    """The cell that is about to be searched."""

    problem: Problem
    target: Target
    workload: Workload
    compiler: str


def starts(rows: Iterable[Row], request: Request, space: Space, most: int) -> list[Config]:
    """At most `most` different configurations of winners, the nearest first.

    `rows` are those of the view ``best``. Values that this space lacks (wider vectors, more cores,
    another packed form) become the default's; what then breaks a restriction is left out.
    """
    found: list[Config] = []
    for _, row in sorted(_rated(rows, request), key=lambda rated: rated[0]):
        config = _fitted(row["config"], space) if row["template"] == space.template else None
        if config is not None and config not in found:
            found.append(config)
    return found[:most]


def _fitted(config: Mapping[str, int], space: Space) -> Config | None:
    if set(config) != set(space.values):  # the template has other parameters now
        return None
    fitted = {
        n: config[n] if config[n] in values else space.default[n]
        for n, values in space.values.items()
    }
    return fitted if space.broken(fitted) is None else None


def _rated(rows: Iterable[Row], request: Request) -> Iterator[tuple[float, Row]]:
    """Winners that are near enough, with their distance."""
    by_problem: dict[str, list[Row]] = {}
    for row in rows:
        by_problem.setdefault(row["problem_id"], []).append(row)
    for of_problem in by_problem.values():
        problem = Problem.from_key(of_problem[0]["problem"])
        unlike = _unlike(problem, request.problem)
        for group in grouped(of_problem):
            machine = select.unlike(request.workload, request.target, request.compiler, group)
            for row in group.rows:
                rows_apart = octaves(
                    _expert_rows(problem, row["tokens"]),
                    _expert_rows(request.problem, request.workload.tokens),
                )
                if (distance := unlike + machine + rows_apart) <= FURTHEST:
                    yield distance, row


def _expert_rows(problem: Problem, tokens: int) -> float:
    """Mean rows of an expert, which is what decides the form of a kernel."""
    return max(1, tokens) * problem.top_k / problem.num_experts


def _unlike(a: Problem, b: Problem) -> float:
    return (
        OTHER_SIZE * (octaves(a.hidden, b.hidden) + octaves(a.expert_dim, b.expert_dim))
        + OTHER_DTYPE * ((a.dtype != b.dtype) + (a.weight_dtype != b.weight_dtype))
        + OTHER_EXPERT * (a.gated != b.gated)
        + OTHER_EXPERT * (bool(a.shared_dim) != bool(b.shared_dim))
    )
