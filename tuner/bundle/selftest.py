"""The self-test of a bundle: a few inputs with float64 answers, and weights that follow from a seed.

Weights are too large to travel. They are made again where the bundle is installed, from nothing that may
differ there: the raw words of PCG64, whose stream NumPy keeps as it is (NEP 19 promises that of bit
generators, not of distributions), a shift, an exact conversion to float32 and one multiplication, which
IEEE 754 rounds in one way. So the answers worked out where the bundle was built are right for them. It holds
their SHA-256 all the same: a NumPy that made others would be found out, and no kernel blamed for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.bundle import manifest as manifests
from tuner.bundle.archive import Archive
from tuner.errors import SelfTestError
from tuner.measure.right_answers import Case, Expected, answer, expected
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.footprint import available_bytes, weights_bytes
from tuner.problem.weights import Weights, array_shapes, deviation

SEED = 5
# Tokens, load, rows whose answer is shipped. 33 is more than two of the largest tiles (14 rows), and ragged.
_CASES: tuple[tuple[int, str, tuple[int, ...]], ...] = (
    (1, "router", (0,)),
    (7, "zipf:1.2", (0, 6)),
    (33, "router", (0, 16, 32)),
    (16, "onehot", (9,)),
)
# More than two of a GPU's largest tiles (128 rows) in one expert, and ragged.
_LARGE = (259, "onehot", (0, 127, 128, 258))
_ARRAYS = ("indices", "rows", "ties", "weights", "x", "y")
# A copy of the weights, and the packed one.
_COPIES = 2.2
# An answer may be so much smaller than what was added up to it; tokens are drawn so often.
_CANCELLED = 1.5
_MOST_DRAWS = 200


def weights(problem: Problem, seed: int) -> Weights:
    """The weights of this seed, the same on every machine and with every NumPy.

    Raises SelfTestError where they do not fit in memory.
    """
    need, have = int(_COPIES * weights_bytes(problem)), available_bytes()
    if need > have:
        raise SelfTestError(
            f"the self-test needs {need / 2**30:.1f} GiB of memory, {have / 2**30:.1f} GiB are free; free some"
        )
    dtype = NUMPY_DTYPES[problem.weight_dtype]
    arrays = {}
    for number, (name, shape) in enumerate(array_shapes(problem).items()):
        source = np.random.PCG64(np.random.SeedSequence([seed, number]))
        scale = np.float32(math.sqrt(3) * deviation(problem, name, shape))
        arrays[name] = np.empty(shape, dtype)
        for block in arrays[name].reshape(shape[0], -1):  # one expert, or row, or bias, at a time
            block[...] = _uniform(source, block.shape) * scale
    return Weights(**arrays)


def _uniform(source: np.random.PCG64, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Multiples of 2^-23 in [-1, 1)."""
    count = math.prod(shape)
    words = source.random_raw((count + 1) // 2).astype("<u8").view("<i4")[:count]
    return ((words >> 8).astype(np.float32) * np.float32(2.0**-23)).reshape(shape)


def digest(made: Weights) -> str:
    """SHA-256 over the bytes of the arrays, in the order of the fields of Weights."""
    hashed = hashlib.sha256()
    for array in vars(made).values():
        if array is not None:
            hashed.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hashed.hexdigest()


def make(
    problem: Problem, folder: str, large: bool = False
) -> tuple[manifests.SelfTest, dict[str, bytes]]:
    """The self-test of a problem, and its members under `folder`; with `large`, also tiles of a GPU's size."""
    made = weights(problem, SEED)
    cases, members = [], {}
    for number, (tokens, load, rows) in enumerate((*_CASES, _LARGE) if large else _CASES):
        case = Case(tokens, load, SEED + number)
        answered = _answered(problem, made, case, np.array(rows, np.intp))
        names = {array: f"{folder}/{number}/{array}.bin" for array in _ARRAYS}
        members.update({names[array]: getattr(answered, array).tobytes() for array in _ARRAYS})
        cases.append(manifests.SelfTestCase(tokens, load, names))
    return manifests.SelfTest(SEED, digest(made), tuple(cases)), members


def _answered(problem: Problem, made: Weights, case: Case, rows: npt.NDArray[np.intp]) -> Expected:
    """The case with the first tokens whose answers do not cancel out: a bundle says how large an answer is, not
    what was added up to it."""
    for number in range(_MOST_DRAWS):
        found = answer(problem, made, case, _tokens(problem, case, number), rows)
        plain = dataclasses.replace(found, sizes=None)
        if (found.bound <= _CANCELLED * plain.bound).all():
            break
    return found


def _tokens(problem: Problem, case: Case, number: int) -> npt.NDArray[np.generic]:
    """Multiples of 1/64 in [-2, 2): exact in every data type, and small in a zip."""
    drawn = [case.seed, case.tokens, *([number] if number else [])]
    source = np.random.PCG64(np.random.SeedSequence(drawn))
    count = case.tokens * problem.hidden
    words = source.random_raw(-(-count // 8)).astype("<u8").view("i1")[:count]
    x = words.astype(np.float32) / np.float32(64)
    return x.reshape(case.tokens, problem.hidden).astype(NUMPY_DTYPES[problem.dtype])


def material(section: manifests.Section, archive: Archive) -> tuple[Weights, tuple[Expected, ...]]:
    """The weights of a section's self-test, and its cases.

    Raises SelfTestError where NumPy makes other weights, or arrays do not fit the problem.
    """
    made = section.selftest
    values = weights(section.problem, made.seed)
    if digest(values) != made.weights_sha256:
        raise SelfTestError("NumPy gives other weights than where this was built; upgrade NumPy")
    names = {name for case in made.cases for name in case.arrays.values()}
    members = {name: archive.read(name) for name in names}
    return values, tuple(read(section.problem, made, members))


def read(
    problem: Problem, selftest: manifests.SelfTest, members: Mapping[str, bytes]
) -> Iterator[Expected]:
    """The cases, in the order of the manifest. Raises SelfTestError where arrays do not fit the problem."""
    for number, case in enumerate(selftest.cases):
        content = {name: members[member] for name, member in case.arrays.items()}
        arrays = _arrays(problem, case.tokens, content)
        named = Case(case.tokens, case.load, selftest.seed + number)
        rest = (arrays[name] for name in ("indices", "weights", "ties", "rows", "y"))
        yield expected(problem, named, arrays["x"], *rest)


def _arrays(problem: Problem, tokens: int, content: Mapping[str, bytes]) -> dict[str, Any]:
    """The arrays of one case from their bytes."""
    rows = len(content.get("rows", b"")) // 8
    layout: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
        "indices": ("<i4", (tokens, problem.top_k)),
        "rows": ("<i8", (rows,)),
        "ties": ("?", (tokens,)),
        "weights": ("<f8", (tokens, problem.top_k)),
        "x": (NUMPY_DTYPES[problem.dtype], (tokens, problem.hidden)),
        "y": ("<f8", (rows, problem.hidden)),
    }
    sizes = {n: math.prod(shape) * np.dtype(dtype).itemsize for n, (dtype, shape) in layout.items()}
    if rows == 0 or {name: len(data) for name, data in content.items()} != sizes:
        raise SelfTestError(f"the self-test of {tokens} tokens has other sizes; build it again")
    arrays = {
        name: np.frombuffer(content[name], dtype).reshape(shape)
        for name, (dtype, shape) in layout.items()
    }
    # A kernel that is given its routing does not look whether there are such experts.
    for name, end in (("rows", tokens), ("indices", problem.num_experts)):
        if arrays[name].min() < 0 or arrays[name].max() >= end:
            raise SelfTestError(f"the self-test of {tokens} tokens has {name} out of range")
    return arrays
