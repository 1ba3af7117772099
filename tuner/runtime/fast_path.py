"""Fixed: calls with few tokens go through memory whose addresses are known beforehand.

A decoding layer's weights stream through the caches at each call, so the interpreter starts from memory
afterwards, and every line that it touches costs some 0.1 us. Taking the address of an array costs 50 us
then, copying the tokens of one call 5. So few tokens are copied, and answers are made several at a time,
ahead of their calls: only the first of them starts from memory.
"""

from __future__ import annotations

import ctypes
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tuner.cpu.buffers import address
from tuner.cpu.kernel import Bound
from tuner.cpu.worker_pool import REGION, ready_argument

# Calls with more tokens take long enough to hide what addresses cost.
MOST_TOKENS = 16
# Answers made ahead for a layer and token count: so many, of so many bytes together. Where these are
# fewer than LEAST_STOCK, the call takes long enough, too.
MOST_STOCK = 16
STOCK_BYTES = 256 << 10
LEAST_STOCK = 4
# Places for answers (`out=`) whose addresses are remembered for a layer and token count.
MOST_PLACES = 2

Array = npt.NDArray[Any]
# What a call returns, and the address of the arguments that make the kernel write there.
Ready: TypeAlias = tuple[Any, Any]
# The same for a caller's array, where NumPy has the address of its memory, and what that was.
Place: TypeAlias = tuple[Array, Any, ctypes.c_void_p, int]
# A call that is ready to run: where its tokens go, the library's function and control block, how often
# it ran, answers y made ahead, answers (y, indices, weights) made ahead, places by id, and the rest. A
# tuple, because few lines of memory hold all of it, and a plain one, as others are slower to unpack.
Call: TypeAlias = tuple[
    Array,
    Callable[[Any, Any], None],
    Any,
    list[int],
    list[Ready],
    list[Ready],
    dict[int, Place],
    "OutputMemory",
]


class FixedCalls:
    """A layer's fixed calls by the shape [T, D] of their tokens; whoever reads it holds REGION."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int, ...], Call] = {}
        with REGION:
            _tables.add(self)


_tables: weakref.WeakSet[FixedCalls] = weakref.WeakSet()


def forget() -> None:
    """Empties all tables, where what fixed calls stand on changes: the scratch memory moves, somebody
    starts to listen, the worker threads are gone. Their next calls are made anew."""
    with REGION:
        for table in _tables:
            table.calls.clear()


os.register_at_fork(after_in_child=forget)


def fits(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether calls with tokens of this shape [T, D] gain from being fixed."""
    tokens, hidden = shape
    return tokens <= MOST_TOKENS and tokens * hidden * dtype.itemsize * LEAST_STOCK <= STOCK_BYTES


def prepare(
    bound: Bound, shape: tuple[int, int], dtype: np.dtype[Any], top_k: int, scratch: int,
    calls: list[int],
) -> Call:  # fmt: skip
    """The call with x [T, D]; each time it is made, the caller adds 1 to `calls[0]`."""
    tokens, hidden = shape
    source, result, indices, weights = (
        array[:tokens] for array in _buffers(hidden, dtype, top_k)
    )  # contiguous: all columns
    before, after = (address(source), address(result)), (address(indices), address(weights))
    function, control, block = bound.fix(tokens, *before, scratch, *after)
    answers = OutputMemory(bound, np.array(block), result, indices, weights)
    return source, function, ready_argument(control), calls, [], [], {}, answers


class OutputMemory:
    """Where the answers of one fixed call go: memory of the process, its caller's, or made ahead."""

    def __init__(
        self, bound: Bound, arguments: Array, result: Array, indices: Array, weights: Array
    ) -> None:
        """`arguments` are those of the call with this `result` and routing."""
        self._bound = bound  # its packed weights are in the arguments
        self._forms = result, indices, weights
        count = min(MOST_STOCK, STOCK_BYTES // result.nbytes)
        self._plain, self._routed, self._placed, self._own = (
            _Blocks(arguments, rows) for rows in (count, count, MOST_PLACES, 1)
        )

    @property
    def own(self) -> Ready:
        """Memory of the process."""
        return self._forms[0], self._own.addresses[0]

    def more(self, stock: list[Ready], routed: bool) -> Ready:
        """Fills an empty stock and takes one out: nobody uses the arguments of the former any more."""
        blocks = self._routed if routed else self._plain
        for block, place in zip(blocks.rows, blocks.addresses, strict=True):
            answers = [
                np.empty(form.shape, form.dtype) for form in self._forms[: 3 if routed else 1]
            ]
            block[2] = address(answers[0])
            block[8:10] = [address(array) for array in answers[1:]] or block[8:10]
            stock.append((tuple(answers) if routed else answers[0], place))
        return stock.pop()

    def remember(self, places: dict[int, Place], out: Array) -> None:
        """Makes the next call with this place a direct one. The place lives as long as the call."""
        if id(out) in places:
            places.clear()  # its memory is another one; the other place is soon remembered again
        # Not the base of a view: it may be large.
        if len(places) < MOST_PLACES and out.flags.owndata:
            memory, place = _memory_of(out), address(out)
            if memory.value == place:
                self._placed.rows[len(places)][2] = place
                places[id(out)] = out, self._placed.addresses[len(places)], memory, place


def _memory_of(array: Array) -> ctypes.c_void_p:
    """Its `value` is the address of an array as it is then, 25 times as fast as `address`.

    The field is the first behind the object's head in NumPy's C API, which other packages are compiled
    against; whoever uses it compares it with `address` once.
    """
    return ctypes.c_void_p.from_address(id(array) + object.__basicsize__)


class _Blocks:
    """Copies of a call's arguments and their addresses."""

    def __init__(self, arguments: Array, count: int) -> None:
        self.rows = np.tile(arguments, (count, 1))
        self.addresses = [ready_argument(address(row)) for row in self.rows]


@functools.cache
def _buffers(hidden: int, dtype: np.dtype[Any], top_k: int) -> tuple[Array, Array, Array, Array]:
    """Tokens, answers, indices and weights of the process: one call runs at a time."""
    tokens = np.zeros((2, MOST_TOKENS, hidden), dtype)
    routing = np.zeros((MOST_TOKENS, top_k), np.int32), np.zeros((MOST_TOKENS, top_k), np.float32)
    return tokens[0], tokens[1], *routing
