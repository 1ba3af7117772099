"""Answers: what a kernel is asked, and what is right, in float64.

Each case has fresh random tokens, one of them extreme ones among good (``tuner.measure.extremes``). A case of
thousands of tokens is answered on some of its rows: given the routing, tokens don't depend on each other.
How far an output may be off depends on the case: see ``Expected.bound``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tuner.measure import extremes, reference
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.dtypes import DTYPES
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, route_by_load

# Routing is decided and weighted in float32: for a logit of order 1, or by its size.
ROUTING_TOLERANCE = 1e-5
# Scores closer than this may be chosen either way; logits by their size.
TIE = 1e-6
# Relative error of a float32 sum of n products, over the root of n: four units, for sums whose order is free.
SUM_TOLERANCE = 4 * 2.0**-24
CHECKED_ROWS = 48
# Tokens of the batch that small cases share: at least 2 * tile_rows + 3 of the largest tile.
BATCH_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """Some tokens; `load` is `router` or `extreme` (the layer routes) or a load that is imposed."""

    tokens: int
    load: str
    seed: int


@dataclass(frozen=True)
class Expected:
    """Inputs of one case and the right answer on `rows`.

    Attributes:
        x: [T, D].
        tolerance: of the data type, relative.
        indices, weights: the routing [T, k].
        ties: which tokens [T] may be routed otherwise.
        rows: of x, whose answer is known.
        y: it, [rows, D].
        experts: how many there are.
        depth: of the deepest sum of products.
        sizes: of what was added up for a row of y; unknown: as large as y itself.
        logits: the size of what was added up for a token's logits [T]; unknown: of order 1.
    """

    case: Case
    x: npt.NDArray[Any]
    tolerance: float
    indices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    ties: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.intp]
    y: npt.NDArray[np.float64]
    experts: int
    depth: int
    sizes: reference.Sizes | None = None
    logits: npt.NDArray[np.float64] | None = None

    @property
    def routed(self) -> bool:
        return self.case.load not in ("router", extremes.LOAD)

    @property
    def bound(self) -> npt.NDArray[np.float64]:
        """How far each row of y may be off, by the Euclidean norm.

        The data type's tolerance, of y or of the products that were added up to it; float32 sums as deep as the
        deepest product; and the least difference of two numbers of the data type.
        """
        size: npt.NDArray[np.float64] = np.linalg.norm(self.y, axis=1)
        dtype = DTYPES[self.x.dtype.name]
        allowed: npt.NDArray[np.float64] = (
            4 * dtype.step * np.sqrt(self.y.shape[1]) + self.tolerance * size
        )
        if self.sizes is None:
            return allowed
        sums = SUM_TOLERANCE * np.sqrt(self.depth) * self.sizes.all
        return np.asarray(allowed + self.tolerance * np.maximum(self.sizes.down - size, 0) + sums)

    @property
    def noise(self) -> npt.NDArray[np.float64]:
        """How much the routing weights of each token may be off."""
        most = np.maximum(1, self.weights.max(axis=1, initial=0.0))
        logits = 1 if self.logits is None else np.maximum(1, self.logits)
        return np.asarray(ROUTING_TOLERANCE * most * logits)


def cases(problem: Problem, tokens: int, tile_rows: int, seed: int) -> tuple[Case, ...]:
    """What a kernel must get right: one token, ragged tiles, empty experts, one expert with all,
    several loads, extreme tokens, and the number of tokens that it will be timed on."""
    ragged = tile_rows + 1
    forms = [
        (1, "router"),
        (2, "uniform"),
        (ragged, "onehot"),
        (2 * tile_rows + 3, "router"),
        (max(5, problem.num_experts // 4), "zipf:1.2"),
        (tokens, "router"),
        (1, extremes.LOAD),
        (max(extremes.TOKENS, ragged), extremes.LOAD),
    ]
    return tuple(Case(t, load, seed + i) for i, (t, load) in enumerate(dict.fromkeys(forms)))


def expect(problem: Problem, weights: Weights, case: Case) -> Expected:
    """The right answer of a case, in float64."""
    (answered,) = _answered(problem, weights, [case])
    return answered


class AnswerSource(Protocol):
    """Who has right answers: works them out, or has them from a file."""

    def of(self, cases: tuple[Case, ...]) -> tuple[Expected, ...]:
        """The right answers, in the order of the cases."""


class Answers:
    """Right answers of many cases, in float64, each worked out once.

    Cases of one load and seed share their tokens: a case has the first of a batch, so that
    variants with another tile need no answers of their own.
    """

    def __init__(self, problem: Problem, weights: Weights) -> None:
        self._problem, self._weights = problem, weights
        self._batches: dict[Case, Expected] = {}

    def of(self, cases: tuple[Case, ...]) -> tuple[Expected, ...]:
        """The right answers, in the order of the cases."""
        wanted = dict.fromkeys(map(_batch, cases))
        missing = [batch for batch in wanted if batch not in self._batches]
        answers = _answered(self._problem, self._weights, missing)
        self._batches.update(zip(missing, answers, strict=True))
        return tuple(_first(self._batches[_batch(case)], case) for case in cases)


def _batch(case: Case) -> Case:
    """The batch that holds a case's tokens: all small cases of a load and seed have the same one."""
    small = 2 < case.tokens <= BATCH_TOKENS
    return dataclasses.replace(case, tokens=BATCH_TOKENS if small else case.tokens)


def _first(batch: Expected, case: Case) -> Expected:
    """The first tokens of a batch, as a case of its own."""
    count = case.tokens
    kept = batch.rows < count
    sizes = batch.sizes and reference.Sizes(*(size[kept] for size in batch.sizes))
    logits = None if batch.logits is None else batch.logits[:count]
    return dataclasses.replace(
        batch, case=case, x=batch.x[:count], indices=batch.indices[:count], weights=batch.weights[:count],
        ties=batch.ties[:count], rows=batch.rows[kept], y=batch.y[kept], sizes=sizes, logits=logits,
    )  # fmt: skip


def _answered(problem: Problem, weights: Weights, cases: Sequence[Case]) -> list[Expected]:
    """Right answers of cases. All go through the reference at once: what costs there is each expert's
    weights in float64."""
    drawn = [_drawn(problem, weights, case) for case in cases]
    if not drawn:
        return []
    parts = [(d.x[d.rows], d.indices[d.rows], d.weights[d.rows]) for d in drawn]
    x, indices, chosen = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    y, sizes = reference.moe_and_sizes(problem, weights, x, (indices, chosen))
    ends = np.cumsum([len(d.rows) for d in drawn])[:-1]
    cut = [np.split(array, ends) for array in (y, *sizes)]
    return [
        dataclasses.replace(d, y=rows, sizes=reference.Sizes(down, both))
        for d, rows, down, both in zip(drawn, *cut, strict=True)
    ]


def answer(
    problem: Problem,
    weights: Weights,
    case: Case,
    x: npt.NDArray[Any],
    rows: npt.NDArray[np.intp],
) -> Expected:
    """The right answer, in float64, of a case on tokens that are given, on these of its rows."""
    routed = _routed(problem, weights, case, x, rows)
    routing = (routed.indices[rows], routed.weights[rows])
    y, sizes = reference.moe_and_sizes(problem, weights, x[rows], routing)
    return dataclasses.replace(routed, y=y, sizes=sizes)


def _drawn(problem: Problem, weights: Weights, case: Case) -> Expected:
    """Tokens and routing of a case, without its answer."""
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal((case.tokens, problem.hidden), dtype=np.float32)
    rows = np.arange(case.tokens)
    if case.load == extremes.LOAD:
        x = extremes.with_extremes(problem, x)
        rows = rows[~extremes.spoiled(x)][:CHECKED_ROWS]
    elif case.tokens > CHECKED_ROWS:
        rows = np.sort(rng.choice(case.tokens, CHECKED_ROWS, replace=False))
    return _routed(problem, weights, case, x.astype(NUMPY_DTYPES[problem.dtype]), rows)


def _routed(
    problem: Problem,
    weights: Weights,
    case: Case,
    x: npt.NDArray[Any],
    rows: npt.NDArray[np.intp],
) -> Expected:
    """The routing of a case, by its load; no answer yet."""
    sizes = None
    if case.load in ("router", extremes.LOAD):
        indices, chosen, ties, sizes = _route(problem, weights, extremes.without_extremes(x))
    else:
        workload = Workload(case.tokens, case.load)
        indices, given = route_by_load(problem, workload, case.seed)
        chosen, ties = given.astype(np.float64), np.zeros(case.tokens, bool)
    routing, none = (indices, chosen, ties, rows), np.empty((0, problem.hidden))
    return expected(problem, case, x, *routing, none, logits=sizes)


def expected(
    problem: Problem,
    case: Case,
    x: npt.NDArray[Any],
    indices: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float64],
    ties: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.intp],
    y: npt.NDArray[np.float64],
    logits: npt.NDArray[np.float64] | None = None,
) -> Expected:
    """A case with what follows from the problem."""
    tolerance = DTYPES[problem.dtype].tolerance
    depth = max(problem.hidden, problem.expert_dim, problem.shared_dim)
    return Expected(
        case,
        x,
        tolerance,
        indices,
        weights,
        ties,
        rows,
        y,
        problem.num_experts,
        depth,
        logits=logits,
    )


def _route(
    problem: Problem, weights: Weights, x: npt.NDArray[Any]
) -> tuple[
    npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.float64]
]:
    """Reference routing, which tokens could rightly be routed otherwise, and the sizes of their logits."""
    indices, chosen, scores = reference.route(problem, weights, x)
    sizes = reference.logit_sizes(problem, weights, x)
    # Sigmoids and softmaxes end at 1, logits err by their size; the logits of a token of zeros are exact.
    bounded = problem.score == "sigmoid" or problem.correction_bias
    close = TIE * (np.ones(len(x)) if bounded else np.maximum(1, sizes))
    ties = _close(scores, close)
    if problem.num_groups > 1:
        ties |= _close(reference.group_scores(problem, scores), close)
    return indices, chosen, ties & x.any(axis=1), sizes


def _close(
    scores: npt.NDArray[np.float64], distance: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which rows have two scores closer than that; those that are minus infinity are masked."""
    ordered = -np.sort(-scores, axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray((ordered[:, :-1] - ordered[:, 1:] < distance[:, None]).any(axis=1))
