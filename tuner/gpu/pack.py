"""Packed weights as a program describes them: which of the layer's arrays, and what NumPy does with each.

A description has a line for each packed array: ``NAME TYPE SHAPE = STEP | STEP | ...``. The steps work on a
stack of arrays; axes count from 0:

    take NAME           puts one of the layer's arrays (a field of ``Weights``) on it, as TYPE
    zeros N N ...       puts zeros of this shape on it
    reshape N N ...     gives the last array this shape
    transpose A A ...   gives its axes this order
    pad A N             adds zeros at the end of its axis A, which becomes N long
    swizzle R P         reorders its axis P: at index r of axis R, place p gets what was at place p ^ r
    join                makes one of the last two, along the first axis
    stack N             makes one of the last N, along a new first axis
    each                what follows is done for every index of the first axis by itself

What is left at the end is stored in C order as SHAPE. Where there is an ``each``, an index of SHAPE's first
axis is what its steps have made for it; that takes the memory of an element at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.errors import CompileError, KernelError
from tuner.problem.arrays import BITS, float32_of, held_dtype
from tuner.problem.dtypes import DTYPES
from tuner.problem.weights import Weights

Array = NDArray[Any]
# What is joined lies apart until a step needs it as one: experts are taken from either part.
Parts = list[Array]

_HEAD = re.compile(r"(\w+) (\w+)((?: [0-9]{1,12})+)")
_STEP = re.compile(r"take (\w+)|(\w+)((?: [0-9]{1,12})*)")


def _whole(parts: Parts) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _reshape(array: Array, *shape: int) -> Array:
    return array.reshape(shape)


def _transpose(array: Array, *axes: int) -> Array:
    return array.transpose(axes)


def _pad(array: Array, axis: int, length: int) -> Array:
    missing = length - array.shape[axis]
    if missing == 0:
        return array
    shape = (*array.shape[:axis], missing, *array.shape[axis + 1 :])
    return np.concatenate([array, np.zeros(shape, array.dtype)], axis)


def _swizzle(array: Array, rows: int, pieces: int) -> Array:
    """The permutation is its own inverse; ``pieces`` are a power of two."""
    first = np.moveaxis(array, (rows, pieces), (0, 1))
    row, piece = np.arange(first.shape[0])[:, None], np.arange(first.shape[1])[None, :]
    return np.moveaxis(first[row, piece ^ row % first.shape[1]], (0, 1), (rows, pieces))


_ON_ONE: Mapping[str, Callable[..., Array]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "pad": _pad,
    "swizzle": _swizzle,
}
_COUNTS = {"join": 0, "stack": 1, "pad": 2, "swizzle": 2}
_VERBS = {*_ON_ONE, "zeros", *_COUNTS}


@dataclass(frozen=True)
class Step:
    """One step: its verb, the array that ``take`` names, and its numbers."""

    verb: str
    name: str
    numbers: tuple[int, ...]

    def follow(self, stack: list[Parts], weights: Weights, dtype: str) -> None:
        """Does to a stack what the step says."""
        if self.verb == "take":
            stack.append([_taken(weights, self.name, dtype)])
        elif self.verb == "zeros":
            stack.append([np.zeros(self.numbers, held_dtype(dtype))])
        elif self.verb == "join":
            stack[-2:] = [stack[-2] + stack[-1]]
        elif self.verb == "stack":
            (count,) = self.numbers
            stack[-count:] = [[np.stack([_whole(parts) for parts in stack[-count:]])]]
        else:
            stack[-1] = [_ON_ONE[self.verb](_whole(stack[-1]), *self.numbers)]


@dataclass(frozen=True)
class Packed:
    """How one packed array is made.

    Attributes:
        text: its line, one space between words.
        dtype: a name of ``tuner.problem.arrays``.
        before: steps on whole arrays; all of them where there is no ``each``.
        each: steps for every index of the first axis, or None.
    """

    text: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    before: tuple[Step, ...]
    each: tuple[Step, ...] | None

    def made(self, weights: Weights, pool: ThreadPoolExecutor) -> Array:
        """The array. Raises KernelError where the steps do not fit the layer's arrays or each other."""
        try:
            return self._made(weights, pool)
        except (ValueError, IndexError, TypeError) as error:
            raise KernelError(
                f"pack {self.name}: its steps do not fit the layer ({error}); build the program again"
            ) from error

    def _made(self, weights: Weights, pool: ThreadPoolExecutor) -> Array:
        made = np.empty(self.shape, held_dtype(self.dtype))
        stack: list[Parts] = []
        self._run(self.before, stack, weights)
        if self.each is None:
            _store(made, stack)
            return made
        steps = self.each
        if {sum(map(len, parts)) for parts in stack} != {len(made)}:
            raise ValueError(f"not all of its arrays are {len(made)} long")

        def one(index: int) -> None:
            own = [[_element(parts, index)] for parts in stack]
            self._run(steps, own, weights)
            _store(made[index, ...], own)

        list(pool.map(one, range(len(made))))
        return made

    def _run(self, steps: Sequence[Step], stack: list[Parts], weights: Weights) -> None:
        for step in steps:
            step.follow(stack, weights, self.dtype)


class Packing:
    """How all packed arrays of a layer are made, by the names of the kernels' parameters.

    Attributes:
        digest: 16 hex digits; programs that share it can serve a layer from one copy.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Raises CompileError where a line is no description."""
        self.arrays = {packed.name: packed for packed in map(_parsed, lines)}
        text = "\n".join(sorted(packed.text for packed in self.arrays.values()))
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:16]

    def pack(self, weights: Weights) -> dict[str, Array]:
        """Everything that the kernels read, of checked weights.

        Raises KernelError where the description does not fit them.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return {name: packed.made(weights, pool) for name, packed in self.arrays.items()}


def _parsed(line: str) -> Packed:
    head, _, tail = " ".join(line.split()).partition(" = ")
    match = _HEAD.fullmatch(head)
    if match is None or match[2] not in DTYPES:
        raise CompileError(f"GPU program: pack {head!r}: must be a name, a data type and a shape")
    texts = tail.split(" | ")
    at = texts.index("each") if "each" in texts else len(texts)
    before, each = (tuple(_step(text) for text in part) for part in (texts[:at], texts[at + 1 :]))
    return Packed(
        text=f"{head} = {tail}",
        name=match[1],
        dtype=match[2],
        shape=_numbers(match[3]),
        before=before,
        each=each if at < len(texts) else None,
    )


def _step(text: str) -> Step:
    match = _STEP.fullmatch(text)
    if match is not None and match[1]:
        return Step("take", match[1], ())
    numbers = _numbers(match[3]) if match else ()
    if (
        match is None
        or match[2] not in _VERBS
        or _COUNTS.get(match[2], len(numbers)) != len(numbers)
    ):
        raise CompileError(f"GPU program: pack step {text!r}: not known; take a newer moetune")
    return Step(match[2], "", numbers)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _taken(weights: Weights, name: str, dtype: str) -> Array:
    """One of the layer's arrays as this type."""
    array = getattr(weights, name, None)
    if not isinstance(array, np.ndarray):
        raise ValueError(f"the layer has no {name}")
    wanted = held_dtype(dtype)
    if array.dtype == wanted:
        return array
    if wanted == BITS:
        raise ValueError(f"{name} becomes bfloat16 with ml_dtypes alone")
    return float32_of(array).astype(wanted, copy=False)


def _element(parts: Parts, index: int) -> Array:
    for part in parts:
        if index < len(part):
            return np.asarray(part[index])
        index -= len(part)
    raise IndexError(index)


def _store(to: Array, stack: list[Parts]) -> None:
    """Writes what the steps have left in C order; ``to`` is contiguous."""
    (parts,) = stack
    array = _whole(parts)
    to.reshape(array.shape)[...] = array
