"""The table of data types: a row is all that a type needs, from the Problem to the service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.rows import TARGET
from tests.services import GRANITE, client, served
from tuner.cli.options import read_model
from tuner.errors import ProblemError, UsageError
from tuner.measure import right_answers
from tuner.problem import Problem
from tuner.problem.arrays import NUMPY_DTYPES, held_dtype, to_numpy, to_torch
from tuner.problem.dtypes import DTYPES, DataType
from tuner.problem.weights import Weights
from tuner.problem.workload import weight_bytes_read
from tuner.target.roofline import multiplies_pairs

__all__ = ["served"]

TOY = DataType(
    name="float8_e4m3fn", bytes=1, tolerance=2.0**-4, largest=448.0, step=2.0**-9,
    scalar="float8_e4m3fn", package="ml_dtypes",
    dlpack=(10, 8), dot_feature="amx-fp8",
)  # fmt: skip
LAYER = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data type beside the others, by nothing but its row."""
    monkeypatch.setitem(DTYPES, TOY.name, TOY)


@pytest.mark.parametrize("name", DTYPES)
def test_rows_agree_with_numpy(name: str) -> None:
    row = DTYPES[name]
    assert row.name == name
    assert row.numpy.itemsize == row.bytes == row.dlpack[1] // 8
    assert 2.0**-24 < row.tolerance < 2.0**-4


def test_a_problem_has_it_and_counts_its_bytes() -> None:
    problem = LAYER.replace(dtype=TOY.name)
    assert problem.weight_dtype == TOY.name
    assert Problem.from_key(problem.key) == problem
    assert 4 * problem.expert_weight_bytes == LAYER.expert_weight_bytes
    counts = np.ones(8, np.int64)
    assert 4 * weight_bytes_read(problem, counts) == weight_bytes_read(LAYER, counts)
    assert read_model("classic-moe", {"dtype": TOY.name}).problem.dtype == TOY.name
    with pytest.raises(ProblemError, match="use one of float32, bfloat16, float16, float8_e4m3fn"):
        LAYER.replace(dtype="int3")


def test_weights_are_of_it_and_the_reference_reads_them() -> None:
    problem = LAYER.replace(dtype=TOY.name)
    weights = Weights.random(problem, 3).check(problem)
    assert weights.up.dtype == NUMPY_DTYPES[TOY.name] == np.dtype(ml_dtypes.float8_e4m3fn)
    expected = right_answers.expect(problem, weights, right_answers.Case(5, "onehot", 1))
    assert expected.x.dtype == weights.up.dtype
    assert expected.tolerance == TOY.tolerance
    assert np.isfinite(expected.y).all()


def test_what_multiplies_pairs_of_it() -> None:
    problem = LAYER.replace(dtype=TOY.name)
    assert not multiplies_pairs(problem, TARGET)
    newer = TARGET.__class__.from_key({**TARGET.key, "features": (*TARGET.features, "amx-fp8")})
    assert multiplies_pairs(problem, newer)
    assert not multiplies_pairs(problem.replace(weight_dtype="float32"), newer)


def test_torch_gives_and_takes_it() -> None:
    torch: Any = pytest.importorskip("torch")
    values = torch.tensor([1.0, -0.5, 3.0]).to(torch.float8_e4m3fn)
    array = to_numpy(values)
    assert array.dtype == NUMPY_DTYPES[TOY.name]
    assert array.astype(np.float32).tolist() == [1.0, -0.5, 3.0]
    assert to_torch(array).dtype == torch.float8_e4m3fn


def test_the_service_takes_it(served: Path) -> None:
    with client(served) as asked:
        for path, reached in (
            ("/v1/best?tokens=4&target=host&", f"dtype={TOY.name}: template moe_cpu makes float32"),
            ("/v1/variants/nothing/source?", "'nothing': no variant of the templates"),
        ):
            known = asked.get(f"{path}model={GRANITE}&dtype={TOY.name}")
            assert known.json()["detail"].startswith(reached)
            refused = asked.get(f"{path}model={GRANITE}&dtype=int3")
            assert refused.status_code == 422
            assert "dtype: not known; use one of float32, bfloat16" in refused.json()["detail"]


def test_the_service_documents_every_type_of_the_table(served: Path) -> None:
    with client(served) as asked:
        (dtype,) = (
            row["schema"]["anyOf"][0]
            for row in asked.get("/openapi.json").json()["paths"]["/v1/best"]["get"]["parameters"]
            if row["name"] == "dtype"
        )
    assert dtype == {"type": "string", "enum": ["float32", "bfloat16", "float16"]}


def test_without_its_package_only_bits_of_bfloat16_will_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    for name in ("bfloat16", TOY.name):
        monkeypatch.delitem(DTYPES[name].__dict__, "numpy", raising=False)
        with pytest.raises(UsageError, match=f"^{name}: NumPy has none .*; pip install ml_dtypes"):
            NUMPY_DTYPES[name]
    assert held_dtype("bfloat16") == np.uint16
    with pytest.raises(UsageError, match="float8_e4m3fn"):
        held_dtype(TOY.name)
