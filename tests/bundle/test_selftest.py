"""What a bundle's self-test is made of; no kernel runs here."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels import REDUCED
from tuner.bundle import selftest
from tuner.problem.weights import array_shapes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", REDUCED)
def test_weights_of_every_form_can_be_made(name: str, dtype: str) -> None:
    """The biases of routing have one axis, all else more."""
    problem = REDUCED[name].replace(dtype=dtype)
    made = selftest.weights(problem, 7).check(problem)
    for array in array_shapes(problem):
        values = getattr(made, array).astype(np.float32)
        assert np.unique(values).size > 3
    assert selftest.digest(made) == selftest.digest(selftest.weights(problem, 7))
    assert selftest.digest(made) != selftest.digest(selftest.weights(problem, 8))
