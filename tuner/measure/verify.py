"""Verify: is a kernel right? Against a float64 reference, before anything is timed.

Outputs and scratch start as NaN; guard zones stand around every buffer that the kernel gets. The cases and
their right answers are those of ``tuner.measure.right_answers``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.cpu.kernel import Kernel, Packed
from tuner.measure import extremes
from tuner.measure.right_answers import Expected
from tuner.problem.arrays import NUMPY_DTYPES

GUARD_BYTES = 4096
_GUARD = 0xA5


@dataclass(frozen=True)
class Verdict:
    """`ok`, or the first thing that was wrong; `worst` is the largest relative error seen."""

    ok: bool
    message: str
    worst: float
    cases: int


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
    return check(expected, lambda x: _guarded_run(kernel, packed, expected, x))


@dataclass(frozen=True)
class Answered:
    """What a kernel made of tokens, or what is wrong with how it did it."""

    y: npt.NDArray[Any]
    indices: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    wrong: str = ""


def _guarded_run(
    kernel: Kernel, packed: Packed, expected: Expected, tokens: npt.NDArray[Any]
) -> Answered:
    """One call on poisoned buffers between guard zones."""
    problem, count = kernel.problem, len(tokens)
    shape = (count, problem.top_k)
    buffers = {
        "y": Guarded((count, problem.hidden), NUMPY_DTYPES[problem.dtype], np.nan),
        "indices": Guarded(shape, np.int32, -1),
        "weights": Guarded(shape, np.float32, np.nan),
        "scratch": Guarded((kernel.scratch_bytes(count) // 4,), np.float32, np.nan),
    }
    y, indices, weights, scratch = (b.array for b in buffers.values())
    if expected.routed:
        indices[...], weights[...] = expected.indices, expected.weights
    x = tokens.copy()
    kernel.run(packed, x, y, indices, weights, scratch, expected.routed)
    outside = next((name for name, buffer in buffers.items() if buffer.broken()), "")
    wrong = (
        f"{outside}: written outside its {buffers[outside].array.nbytes} bytes" if outside else ""
    )
    if not wrong and x.tobytes() != tokens.tobytes():
        wrong = "x: was written to"
    return Answered(y, indices, weights, wrong)


def check(expected: Expected, run: Callable[[npt.NDArray[Any]], Answered]) -> tuple[str, float]:
    """What is wrong with a kernel's answers to a case (or nothing), and the relative error; ``run`` calls it.

    Where tokens are spoiled it is called again without them: the others' outputs must not change.
    """
    found = run(expected.x)
    if found.wrong:
        return found.wrong, np.inf
    wrong, error = compare(expected, found.y, found.indices, found.weights)
    spoiled = extremes.spoiled(expected.x)
    if wrong or not spoiled.any():
        return wrong, error
    again = run(extremes.without_extremes(expected.x))
    changed = ~spoiled & (found.y.view(np.uint8) != again.y.view(np.uint8)).any(axis=1)
    if changed.any():
        wrong = f"token {int(np.argmax(changed))}: its output depends on tokens that are not finite"
    return again.wrong or wrong, error


def compare(
    expected: Expected,
    y: npt.NDArray[Any],
    indices: npt.NDArray[np.int32],
    weights: npt.NDArray[np.float32],
) -> tuple[str, float]:
    """What is wrong with an answer (or nothing), and the largest relative error of the checked rows."""
    spoiled = extremes.spoiled(expected.x)
    wrong = _wrong_choice(expected, indices) or _not_spoiled(y, spoiled)
    if wrong:
        return wrong, np.inf
    differs = (indices != expected.indices).any(axis=1)
    loose = extremes.overflowing(expected.x)
    sure = ~(differs | spoiled | loose)
    errors = np.abs(weights - expected.weights).max(axis=1, initial=0.0)
    if not (errors <= expected.noise)[sure].all():
        error = float(errors[sure].max())
        return f"routing weights are off by {error:.2e}", error
    finite = np.isfinite(y.astype(np.float32, copy=False))
    if not finite[~(spoiled | loose)].all():
        count = int((~finite[~(spoiled | loose)]).sum())
        return f"y: {count} of {y.size} elements are not finite", np.inf
    return _off(expected, y, ~(differs | spoiled))


def _wrong_choice(expected: Expected, indices: npt.NDArray[np.int32]) -> str:
    """What is wrong with the chosen experts; k different ones also where any will do."""
    ordered = np.sort(indices, axis=1)
    outside = (indices < 0) | (indices >= expected.experts)
    bad = outside.any(axis=1) | (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if bad.any():
        token = int(np.argmax(bad))
        return f"token {token}: routed to {indices[token].tolist()}: not different experts"
    free = expected.ties | extremes.spoiled(expected.x) | extremes.overflowing(expected.x)
    differs = (indices != expected.indices).any(axis=1) & ~free
    if not differs.any():
        return ""
    token = int(np.argmax(differs))
    have, must = indices[token].tolist(), expected.indices[token].tolist()
    return f"token {token}: routed to {have}, must be {must}"


def _not_spoiled(y: npt.NDArray[Any], spoiled: npt.NDArray[np.bool_]) -> str:
    """A token that is not finite and whose output says nothing of it."""
    hidden = spoiled & ~np.isnan(y.astype(np.float32, copy=False)).all(axis=1)
    if not hidden.any():
        return ""
    return f"token {int(np.argmax(hidden))}: is not finite, and its output is not NaN"


def _off(expected: Expected, y: npt.NDArray[Any], sure: npt.NDArray[np.bool_]) -> tuple[str, float]:
    """How far the checked rows are off, of the tokens whose routing is known."""
    kept = sure[expected.rows]
    right, found = expected.y[kept], y[expected.rows][kept].astype(np.float64)
    # Where a right kernel may overflow, it says so.
    said = extremes.overflowing(expected.x)[expected.rows][kept] & ~np.isfinite(found).all(axis=1)
    difference = np.linalg.norm(np.where(said[:, None], 0, found - right), axis=1)
    bound = expected.bound[kept]
    size = np.maximum(np.linalg.norm(right, axis=1), bound)
    if not (difference <= bound).all():
        row = int(np.argmax(~(difference <= bound)))
        error, most = difference[row] / size[row], bound[row] / size[row]
        return f"relative error {error:.2e}, at most {most:.0e} is right", float(error)
    return "", float((difference / size).max(initial=0.0))


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
