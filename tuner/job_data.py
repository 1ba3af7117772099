"""What all trials of a job share: packed weights and right answers, made once, read by every process.

Both are pure functions of the job. They lie in memory-backed files where the system has them.
"""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner import gpu_pack, verify
from tuner.arrays import NUMPY_DTYPES
from tuner.job import Job
from tuner.problem import Problem
from tuner.weights import Weights, array_shapes, deviation

_ELEMENTS_AT_ONCE = 1 << 22


def make(job: Job, folder: Path, tiles: tuple[int, ...]) -> None:
    """Writes weights and answers of every case into a folder; ``tiles`` are the variants' tile heights."""
    problem = job.layer
    weights = random_weights(problem, job.seed)
    write_packed(problem, weights, folder)
    wanted = {
        tile: {t: verify.cases(problem, t, tile, job.seed) for t in job.tokens} for tile in tiles
    }
    cases = tuple(
        dict.fromkeys(c for by_tokens in wanted.values() for cs in by_tokens.values() for c in cs)
    )
    answers = dict(zip(cases, verify.Answers(problem, weights).of(cases), strict=True))
    with (folder / "answers.pickle").open("wb") as stream:
        pickle.dump(answers, stream)


def write_packed(problem: Problem, weights: Weights, folder: Path) -> None:
    """Writes the form that `weights_of` reads."""
    for name, array in gpu_pack.pack(problem, weights).items():
        np.save(folder / f"{name}.npy", _plain(array))


def weights_of(folder: Path, problem: Problem) -> dict[str, NDArray[Any]]:
    """The packed weights, mapped from their files."""
    names = (*gpu_pack.packed_shapes(problem), "router", "router_bias", "correction")
    names = (*names, "gate_bias", "up_bias", "down_bias")
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def answers_of(folder: Path) -> dict[verify.Case, verify.Expected]:
    """The right answers by case."""
    with (folder / "answers.pickle").open("rb") as stream:
        return pickle.load(stream)  # type: ignore[no-any-return]  # written by `make`, a moment ago


def random_weights(problem: Problem, seed: int) -> Weights:
    """Weights like those of ``Weights.random``, drawn on all cores: another stream for each slice."""
    dtype = NUMPY_DTYPES[problem.weight_dtype]
    arrays = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for number, (name, shape) in enumerate(array_shapes(problem).items()):
            array = np.empty(shape, dtype)
            flat = array.reshape(-1)
            scale = np.float32(deviation(problem, name, shape))

            def draw(
                at: int, flat: NDArray[Any] = flat, scale: Any = scale, number: int = number
            ) -> None:
                part = flat[at : at + _ELEMENTS_AT_ONCE]
                rng = np.random.default_rng([seed, number, at])
                part[...] = rng.standard_normal(part.size, dtype=np.float32) * scale

            list(pool.map(draw, range(0, flat.size, _ELEMENTS_AT_ONCE)))
            arrays[name] = array
    return Weights(**arrays)


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The same bytes in a data type that a .npy file can name."""
    return array.view(np.uint16) if array.dtype.itemsize == 2 else array
