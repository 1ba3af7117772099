"""Peers compute what the reference does; the comparison is paired; its table says all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rows import TARGET
from tuner.errors import UsageError
from tuner.measure import right_answers
from tuner.measure.race import Effort
from tuner.peers import compare, contestant
from tuner.peers.compare import copies, installed, side_by_side
from tuner.peers.contestant import Contestant, PeerError
from tuner.peers.numpy_peer import NumpyPeer
from tuner.peers.peer import Peer
from tuner.peers.table import PEERS
from tuner.problem import PRESETS, Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, route_by_load
from tuner.store.database import Database
from tuner.target import detect

TINY = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2, name="tiny")
FORMS = (*(p.name for p in PRESETS.values()), "geglu_tanh")


def small(name: str) -> Problem:
    """A preset's form at sizes that take no time."""
    if name == "geglu_tanh":
        return TINY.replace(activation=name)
    full = Problem.preset(name)
    experts = 16 if full.num_groups > 1 else 8
    shared = 24 if full.shared_dim else 0
    return full.replace(
        hidden=64, expert_dim=48, num_experts=experts, top_k=min(full.top_k, 4), shared_dim=shared
    )


def forms_of(name: str, problem: Problem, weights: Weights) -> dict[str, Any]:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    if PEERS[name].refusal(problem):
        pytest.skip(f"{name} cannot run it, as another test says")
    return PEERS[name].make(problem, weights, 2).forms()


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("model", FORMS)
@pytest.mark.parametrize("load", ["router", "onehot"])
def test_every_form_of_a_peer_is_right(peer: str, model: str, load: str) -> None:
    problem = small(model)
    weights = Weights.random(problem, 3).check(problem)
    forms = forms_of(peer, problem, weights)
    assert len(forms) >= 2
    for tokens in (1, 19):
        case = right_answers.expect(problem, weights, right_answers.Case(tokens, load, 5))
        assert max(errors(forms, case).values()) <= 1e-5


def errors(forms: dict[str, Any], case: right_answers.Expected) -> dict[str, float]:
    """The largest relative error of each form."""
    routing = (case.indices, case.weights.astype(np.float32)) if case.routed else None
    found = {}
    for form, call in forms.items():
        y = call(case.x, routing).astype(np.float64)
        error = np.linalg.norm(y - case.y, axis=1) / np.linalg.norm(case.y, axis=1)
        found[form] = float(error.max())
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_torch_runs_all_its_forms_in_every_type(dtype: str) -> None:
    problem = small("gpt-oss-20b").replace(dtype=dtype)
    weights = Weights.random(problem, 3).check(problem)
    case = right_answers.expect(problem, weights, right_answers.Case(19, "zipf:1.2", 5))
    found = errors(forms_of("torch", problem, weights), case)
    assert {"F.linear per expert", "mm per expert, transposed", "F.grouped_mm"} <= set(found)
    assert dtype != "float32" or "packed linear per expert" in found
    assert max(found.values()) <= 4 * case.tolerance


@pytest.mark.parametrize(
    ("peer", "change", "reason"),
    [
        ("numpy", {"activation": "geglu"}, "it has no erf, so no fair geglu"),
        ("numpy", {"dtype": "bfloat16"}, "float32 alone, not in bfloat16"),
        ("numpy", {"activation": "geglu_tanh"}, ""),
        ("onnxruntime", {"dtype": "bfloat16"}, "float32 alone on the CPU, not in bfloat16"),
        ("onnxruntime", {"dtype": "float16"}, "float32 alone on the CPU, not in float16"),
        ("onnxruntime", {"activation": "geglu"}, "no geglu on the CPU"),
        ("onnxruntime", {"activation": "geglu_tanh"}, "no geglu_tanh on the CPU"),
        ("onnxruntime", {"activation": "swiglu_clamped"}, ""),
        ("onnxruntime", {"activation": "swiglu_clamped", "shared_dim": 8}, "no shared expert of"),
        ("torch", {"activation": "geglu", "dtype": "float16"}, ""),
    ],
)
def test_what_a_peer_cannot_run(peer: str, change: dict[str, Any], reason: str) -> None:
    said = PEERS[peer].refusal(TINY.replace(**change))
    assert reason in said if reason else said == ""


def test_copies_of_the_weights() -> None:
    """Ours and packed; of a peer none where it cannot run."""
    assert copies(TINY, ["torch"]) == 4
    assert copies(TINY, ["numpy", "torch", "onnxruntime"]) == pytest.approx(6 + 2 / 3)
    assert copies(TINY.replace(dtype="bfloat16"), ["numpy", "torch", "onnxruntime"]) == 4


def entered(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], load: str) -> Contestant:
    """A contestant of one form, for a workload whose weights stay warm (so: no probe)."""

    class Fake:
        def forms(self) -> dict[str, Any]:
            return {"only": call}

    monkeypatch.setitem(
        PEERS, "fake", Peer(name="fake", make=lambda *_: Fake(), modules=(), copies=1)
    )
    state = Contestant(TINY, TARGET, 0)
    state.enter("fake", Workload(20, load))
    return state


def test_a_wrong_peer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError, match=r"^fake, only: relative error 1\.00e\+00 at T=20 router"):
        entered(monkeypatch, lambda x, routing: np.zeros_like(x), "uniform")


def test_an_imposed_load_reaches_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    right = NumpyPeer(TINY, Weights.random(TINY, 0).check(TINY), 1).forms()["BLAS threads"]

    def call(x: Any, routing: Any) -> Any:
        seen.append(routing)
        return right(x, routing)

    sample = entered(monkeypatch, call, "onehot").sample(1)
    assert sample.ns > 0
    assert sample.read_gb_s == 0
    np.testing.assert_array_equal(seen[-1][0], route_by_load(TINY, Workload(20, "onehot"), 1)[0])


@pytest.mark.parametrize(
    ("tokens", "against", "message"),
    [
        ([1], ["nmpy"], r"^peer 'nmpy': not known; use numpy, torch, onnxruntime$"),
        ([1], [], r"^peers: none given; use numpy, torch, onnxruntime$"),
        ([1], ["numpy", "numpy"], r"one is given twice"),
        ([0], ["numpy"], r"^tokens=\[0\]: must be numbers of at least 1"),
        ([], ["numpy"], r"^tokens=\[\]: must be"),
    ],
)
def test_called_wrongly(
    tokens: list[int], against: list[str], message: str, database: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        side_by_side(TINY, TARGET, Database(database), tokens, against)


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setattr(compare, "installed", lambda: ("numpy",))
    with pytest.raises(UsageError, match=r"^peer 'torch': .*pip install 'moetune\[compare\]'"):
        side_by_side(TINY, TARGET, Database(database), [1], ["torch"])


def test_half_of_a_peer_is_not_installed(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    more = replace(PEERS["numpy"], modules=("numpy", "no_such_module"))
    monkeypatch.setitem(PEERS, "numpy", more)
    assert "numpy" not in installed()
    with pytest.raises(UsageError, match=r"^peer 'numpy': no_such_module is not installed; "):
        side_by_side(TINY, TARGET, Database(database), [1], ["numpy"])


@pytest.mark.parametrize(("long_ns", "calls_made"), [(10**12, 4), (0, 3)])
def test_after_a_long_call_there_is_no_other_to_wake_threads(
    monkeypatch: pytest.MonkeyPatch, long_ns: int, calls_made: int
) -> None:
    monkeypatch.setattr(contestant, "_LONG_NS", long_ns)
    right = NumpyPeer(TINY, Weights.random(TINY, 0).check(TINY), 1).forms()["BLAS threads"]
    calls = []

    def call(x: Any, routing: Any) -> Any:
        calls.append(x)
        return right(x, routing)

    state = entered(monkeypatch, call, "uniform")
    calls.clear()
    state.sample(0)
    state.sample(1)
    assert len(calls) == calls_made


@pytest.mark.compiler
@pytest.mark.timed
def test_end_to_end(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setattr(compare, "EFFORT", Effort(budget_s=0.2, least_rounds=3, most_rounds=5))
    monkeypatch.setattr(compare, "RETRIES", 0)
    notes: list[str] = []
    rows = side_by_side(
        TINY, detect(), Database(database), [4, 20], installed(), report=notes.append
    )
    assert [(r.tokens, r.peer) for r in rows] == [(t, p) for t in (4, 20) for p in installed()]
    assert {(r.tokens, r.temperature) for r in rows} == {(4, "cold"), (20, "warm")}
    assert {r.match for r in rows} == {"default"}
    for row in rows:
        assert 0 < row.ratio_low <= row.ratio <= row.ratio_high
        assert 0 < row.ceiling_fraction < 1.5
        flops_per_token = 2 * TINY.flops_per_pair + 2 * TINY.num_experts * TINY.hidden
        assert row.gflop_s == pytest.approx(row.tokens * flops_per_token / row.ours_median_ns)
        assert row.form == min(row.forms, key=lambda form: row.forms[form])
    assert any("tiny, T=4 uniform: default, moe_cpu_" in note for note in notes)


@pytest.mark.compiler
@pytest.mark.timed
def test_a_peer_that_cannot_run_has_a_row(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setattr(compare, "EFFORT", Effort(budget_s=0.2, least_rounds=3, most_rounds=3))
    monkeypatch.setattr(compare, "RETRIES", 0)
    problem = TINY.replace(dtype="bfloat16")
    (row,) = side_by_side(problem, detect(), Database(database), [20], ["numpy"])
    assert (row.peer, row.refused) == ("numpy", PEERS["numpy"].refusal(problem))
    assert row.ours_median_ns > 0
    assert (row.ratio, row.peer_median_ns, row.form) == (0, 0, "")
