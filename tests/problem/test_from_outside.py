"""Configurations of models and traces that are damaged: read, or refused as the project's errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.damage import as_bytes, damaged
from tests.properties import tried
from tuner.errors import MoetuneError
from tuner.problem import Problem, trace_file, trace_load

MODELS = sorted((Path(__file__).parents[1] / "models").glob("*.json"))
SMALL = Problem(hidden=8, expert_dim=4, num_experts=4, top_k=2)
TRACE = [
    {"moetune_trace": trace_file.VERSION, "problems": {SMALL.digest: SMALL.key}},
    {"problem": SMALL.digest, "tokens": 3, "calls": 2, "ms": 1.5, "counts": [[3, 2, 1, 0]]},
    {"problem": SMALL.digest, "tokens": 1, "calls": 9, "ms": 0.0, "counts": [[1, 0, 0, 1]]},
]


@pytest.mark.fuzz
@tried(300)
@given(data=st.data())
def test_any_configuration(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    right = json.loads(data.draw(st.sampled_from(MODELS)).read_text())
    value = data.draw(damaged(right))
    path = tmp_path_factory.mktemp("config") / "config.json"
    path.write_bytes(data.draw(as_bytes(value)))
    for source in (path, value):
        try:
            problem = Problem.from_hf_config(source)
        except MoetuneError as error:
            str(error).encode()
        else:
            assert Problem.from_key(json.loads(json.dumps(problem.key))) == problem
            assert problem.describe()


@pytest.mark.fuzz
@tried(300)
@given(data=st.data())
def test_any_trace(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = data.draw(damaged(TRACE) | st.just(TRACE))
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    path.write_bytes(b"\n".join(data.draw(as_bytes(row)) for row in rows))
    try:
        traffic = trace_file.read(path)
        drawn = trace_load.recorded(traffic, SMALL).draw(5, np.random.default_rng(1))
        shares, share = trace_load.heaviest(trace_load.rows(traffic, SMALL))
    except MoetuneError as error:
        str(error).encode()
    else:
        assert drawn.shape == (5, SMALL.top_k)
        assert all(len(set(row)) == SMALL.top_k for row in drawn.tolist())
        assert shares
        assert 0 < share <= 1.0001
