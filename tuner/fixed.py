"""Fixed: calls with few tokens go through buffers whose addresses are known beforehand.

A decoding layer's weights stream through the caches at each call, so the interpreter starts from memory
afterwards, and every line that it touches costs some 0.1 us. Taking the address of an array costs 50 us
then, copying the tokens of one call 5: so few tokens are copied, and nothing else is made.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuner.kernel import Bound
from tuner.pool import REGION

# Calls with more tokens take long enough to hide what addresses cost.
MOST_TOKENS = 16

Array = npt.NDArray[Any]


class Call(NamedTuple):
    """A call that is ready to run: tokens into `source`, the function, the answer out of `result`.

    A tuple, because two lines of memory hold all of it. `scratch` is the address it was made with;
    whoever runs it calls `lock` before and `free` after.
    """

    source: Array
    result: Array
    dtype: np.dtype[Any]
    function: Callable[[Any, Any], None]
    control: ctypes.c_void_p
    arguments: ctypes.c_void_p
    scratch: int
    calls: list[int]
    lock: Callable[[], Any]
    free: Callable[[], None]
    keep: Any


def prepare(
    bound: Bound, shape: tuple[int, int], dtype: np.dtype[Any], top_k: int, scratch: int,
    calls: list[int],
) -> Call:  # fmt: skip
    """The call with x [T, D]; each time it is made, the caller adds 1 to `calls[0]`."""
    tokens, hidden = shape
    source, result, indices, weights = (
        array[:tokens] for array in _buffers(hidden, dtype, top_k)
    )  # contiguous: all columns
    addresses = (source.ctypes.data, result.ctypes.data, scratch)
    function, control, block = bound.fix(
        tokens, *addresses, indices.ctypes.data, weights.ctypes.data
    )
    words = ctypes.c_void_p(control), ctypes.c_void_p(ctypes.addressof(block))
    lock = REGION.acquire, REGION.release
    return Call(source, result, dtype, function, *words, scratch, calls, *lock, (bound, block))


@functools.cache
def _buffers(hidden: int, dtype: np.dtype[Any], top_k: int) -> tuple[Array, Array, Array, Array]:
    """Tokens, answers, indices and weights of the process: one call runs at a time."""
    tokens = np.zeros((2, MOST_TOKENS, hidden), dtype)
    routing = np.zeros((MOST_TOKENS, top_k), np.int32), np.zeros((MOST_TOKENS, top_k), np.float32)
    return tokens[0], tokens[1], *routing
