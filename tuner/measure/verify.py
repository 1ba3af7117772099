"""Verify: is a kernel right? Against a float64 reference, before anything is timed.

Each case has fresh random tokens; outputs and scratch start as NaN; guard zones stand around
every buffer that the kernel gets. A case of thousands of tokens is checked on some of its rows: given the
routing, tokens don't depend on each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tuner.cpu.kernel import Kernel, Packed
from tuner.measure import reference
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.dtypes import DTYPES
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, route_by_load

ROUTING_TOLERANCE = 1e-5  # routing is decided and weighted in float32
# Scores closer than this may be chosen either way.
TIE = 1e-6
GUARD_BYTES = 4096
_GUARD = 0xA5
CHECKED_ROWS = 48
# Tokens of the batch that small cases share: at least 2 * tile_rows + 3 of the largest tile.
BATCH_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """Some tokens; `load` is `router` (the layer routes) or a load that is imposed."""

    tokens: int
    load: str
    seed: int


@dataclass(frozen=True)
class Verdict:
    """`ok`, or the first thing that was wrong; `worst` is the largest relative error seen."""

    ok: bool
    message: str
    worst: float
    cases: int


@dataclass(frozen=True)
class Expected:
    """Inputs of one case and the right answer on `rows`."""

    case: Case
    x: npt.NDArray[Any]
    tolerance: float
    indices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float64]
    ties: npt.NDArray[np.bool_]
    rows: npt.NDArray[np.intp]
    y: npt.NDArray[np.float64]

    @property
    def routed(self) -> bool:
        return self.case.load != "router"


def cases(problem: Problem, tokens: int, tile_rows: int, seed: int) -> tuple[Case, ...]:
    """What a kernel must get right: one token, ragged tiles, empty experts, one expert with all,
    several loads, and the number of tokens that it will be timed on."""
    ragged = tile_rows + 1
    forms = [
        (1, "router"),
        (2, "uniform"),
        (ragged, "onehot"),
        (2 * tile_rows + 3, "router"),
        (max(5, problem.num_experts // 4), "zipf:1.2"),
        (tokens, "router"),
    ]
    return tuple(Case(t, load, seed + i) for i, (t, load) in enumerate(dict.fromkeys(forms)))


def expect(problem: Problem, weights: Weights, case: Case) -> Expected:
    """The right answer of a case, in float64."""
    (expected,) = _answered(problem, weights, [case])
    return expected


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
    return Expected(
        case, batch.x[:count], batch.tolerance, batch.indices[:count], batch.weights[:count],
        batch.ties[:count], batch.rows[kept], batch.y[kept],
    )  # fmt: skip


def _answered(problem: Problem, weights: Weights, cases: Sequence[Case]) -> list[Expected]:
    """Right answers of cases. All go through the reference at once: what costs there is each expert's
    weights in float64."""
    drawn = [_drawn(problem, weights, case) for case in cases]
    if not drawn:
        return []
    parts = [(d.x[d.rows], d.indices[d.rows], d.weights[d.rows]) for d in drawn]
    x, indices, chosen = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    y = reference.moe(problem, weights, x, (indices, chosen))
    ends = np.cumsum([len(d.rows) for d in drawn])[:-1]
    answers = zip(drawn, np.split(y, ends), strict=True)
    return [dataclasses.replace(d, y=rows) for d, rows in answers]


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
    return dataclasses.replace(routed, y=reference.moe(problem, weights, x[rows], routing))


def _drawn(problem: Problem, weights: Weights, case: Case) -> Expected:
    """Tokens and routing of a case, without its answer."""
    rng = np.random.default_rng(case.seed)
    x = rng.standard_normal((case.tokens, problem.hidden), dtype=np.float32)
    rows = np.arange(case.tokens)
    if case.tokens > CHECKED_ROWS:
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
    if case.load == "router":
        indices, chosen, ties = _route(problem, weights, x)
    else:
        workload = Workload(case.tokens, case.load)
        indices, given = route_by_load(problem, workload, case.seed)
        chosen, ties = given.astype(np.float64), np.zeros(case.tokens, bool)
    y = np.empty((0, problem.hidden))
    return Expected(case, x, DTYPES[problem.dtype].tolerance, indices, chosen, ties, rows, y)


def _route(
    problem: Problem, weights: Weights, x: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Reference routing, and which tokens could rightly be routed otherwise."""
    indices, chosen, scores = reference.route(problem, weights, x)
    ordered = -np.sort(-scores, axis=1)
    ties = np.asarray((ordered[:, :-1] - ordered[:, 1:] < TIE).any(axis=1))
    if problem.num_groups > 1:
        groups = -np.sort(-reference.group_scores(problem, scores), axis=1)
        ties = np.logical_or(ties, (groups[:, :-1] - groups[:, 1:] < TIE).any(axis=1))
    return indices, chosen, ties


class Guarded:
    """An array between two guard zones, filled with a value."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, fill: float) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.empty(size + 2 * GUARD_BYTES + 64, np.uint8)
        start = -(raw.ctypes.data + GUARD_BYTES) % 64 + GUARD_BYTES
        raw[:] = _GUARD
        self._before, self._after = raw[:start], raw[start + size :]
        self.array = raw[start : start + size].view(dtype).reshape(shape)
        self.array[...] = fill

    def broken(self) -> bool:
        """Whether anything outside the array was written."""
        return bool((self._before != _GUARD).any() or (self._after != _GUARD).any())


def run_case(kernel: Kernel, packed: Packed, expected: Expected) -> tuple[str, float]:
    """Runs one case; what was wrong (or nothing) and the relative error."""
    problem, case = kernel.problem, expected.case
    shape = (case.tokens, problem.top_k)
    buffers = {
        "y": Guarded((case.tokens, problem.hidden), NUMPY_DTYPES[problem.dtype], np.nan),
        "indices": Guarded(shape, np.int32, -1),
        "weights": Guarded(shape, np.float32, np.nan),
        "scratch": Guarded((kernel.scratch_bytes(case.tokens) // 4,), np.float32, np.nan),
    }
    y, indices, weights, scratch = (b.array for b in buffers.values())
    if expected.routed:
        indices[...], weights[...] = expected.indices, expected.weights
    x = expected.x.copy()
    kernel.run(packed, x, y, indices, weights, scratch, expected.routed)
    for name, buffer in buffers.items():
        if buffer.broken():
            return f"{name}: written outside its {buffer.array.nbytes} bytes", np.inf
    if not np.array_equal(x, expected.x):
        return "x: was written to", np.inf
    return compare(expected, y, indices, weights)


def compare(
    expected: Expected,
    y: npt.NDArray[Any],
    indices: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
) -> tuple[str, float]:
    """What is wrong with an answer (or nothing), and its relative error over the checked rows."""
    differs = (indices != expected.indices).any(axis=1)
    if (differs & ~expected.ties).any():
        token = int(np.argmax(differs & ~expected.ties))
        have, must = indices[token].tolist(), expected.indices[token].tolist()
        return f"token {token}: routed to {have}, must be {must}", np.inf
    error = float(np.abs(weights - expected.weights)[~differs].max(initial=0.0))
    if not error <= ROUTING_TOLERANCE * max(1.0, float(expected.weights.max(initial=0.0))):
        return f"routing weights are off by {error:.2e}", error
    if not np.isfinite(y).all():
        return f"y: {int((~np.isfinite(y)).sum())} of {y.size} elements are not finite", np.inf
    sure = ~differs[expected.rows]
    found = y[expected.rows].astype(np.float64)
    difference = np.linalg.norm(found - expected.y, axis=1)[sure]
    size = np.linalg.norm(expected.y, axis=1)[sure]
    worst = float((difference / np.maximum(size, 1e-30)).max(initial=0.0))
    if not worst <= expected.tolerance:
        return f"relative error {worst:.2e}, at most {expected.tolerance:.0e} is right", worst
    return "", worst


def verify(kernel: Kernel, packed: Packed, expectations: tuple[Expected, ...]) -> Verdict:
    """Runs all cases, to the first that is wrong."""
    worst = 0.0
    for number, expected in enumerate(expectations, start=1):
        message, error = run_case(kernel, packed, expected)
        worst = max(worst, error)
        if message:
            case = expected.case
            return Verdict(False, f"T={case.tokens} {case.load}: {message}", worst, number)
    return Verdict(True, "", worst, len(expectations))
