"""What all trials of a job share: weights and right answers, made once, read by every process.

Both are pure functions of the job. They lie in memory-backed files where the system has room for them there.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.measure import right_answers
from tuner.offline import bench
from tuner.offline.job import Job
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.weights import Weights, array_shapes, deviation

_ELEMENTS_AT_ONCE = 1 << 22
_ANSWERS = "answers.pickle"


def make(job: Job, job_folder: Path, folder: Path) -> None:
    """Writes weights and answers of every case into a folder; ``job_folder`` holds the job's programs."""
    kind, problem = bench.kind_of(job), job.layer
    weights = random_weights(problem, job.seed)
    kind.write(job, job_folder, weights, folder)
    tiles = sorted({job.ragged(variant.name) for variant in job.variants})
    wanted = (right_answers.cases(problem, t, tile, job.seed) for tile in tiles for t in job.tokens)
    cases = tuple(dict.fromkeys(case for cases in wanted for case in cases))
    answers = dict(zip(cases, right_answers.Answers(problem, weights).of(cases), strict=True))
    with (folder / _ANSWERS).open("wb") as stream:
        pickle.dump(answers, stream)


class StoredAnswers:
    """The right answers that `make` wrote, read when first a kernel is verified."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _ANSWERS

    def of(self, cases: tuple[right_answers.Case, ...]) -> tuple[right_answers.Expected, ...]:
        """The right answers, in the order of the cases."""
        return tuple(self._answers[case] for case in cases)

    @functools.cached_property
    def _answers(self) -> Mapping[right_answers.Case, right_answers.Expected]:
        with self._path.open("rb") as stream:
            answers: Mapping[right_answers.Case, right_answers.Expected] = pickle.load(stream)
        return answers


def save(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Writes an array under a name, 16-bit types as plain numbers: a .npy file cannot name bfloat16."""
    np.save(folder / f"{name}.npy", array.view(np.uint16) if array.dtype.itemsize == 2 else array)


def saved(folder: Path, name: str) -> NDArray[Any]:
    """What was saved, mapped from its file."""
    array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r")
    return array


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
