"""Peers compute what the reference does; the comparison is paired; its table says all of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tuner import contestant, peers, verify
from tuner.benchmark import Effort
from tuner.contestant import Contestant, PeerError
from tuner.database import Database
from tuner.errors import UsageError
from tuner.peer_numpy import NumpyPeer
from tuner.peers import PeerRow, installed, side_by_side
from tuner.problem import PRESETS, Problem
from tuner.target import detect
from tuner.weights import Weights
from tuner.workload import Workload, route_by_load

from .rows import TARGET

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


def peer_of(name: str, problem: Problem, weights: Weights) -> contestant.Peer:
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    return contestant.PEERS[name](problem, weights, 2)


@pytest.mark.parametrize("peer", contestant.PEERS)
@pytest.mark.parametrize("model", FORMS)
@pytest.mark.parametrize("load", ["router", "onehot"])
def test_every_form_of_a_peer_is_right(peer: str, model: str, load: str) -> None:
    problem = small(model)
    weights = Weights.random(problem, 3).check(problem)
    forms = peer_of(peer, problem, weights).forms()
    assert len(forms) >= 2
    for tokens in (1, 19):
        case = verify.expect(problem, weights, verify.Case(tokens, load, 5))
        routing = (case.indices, case.weights.astype(np.float32)) if case.routed else None
        for form, call in forms.items():
            error = np.linalg.norm(call(case.x, routing) - case.y, axis=1)
            assert (error <= 1e-5 * np.linalg.norm(case.y, axis=1)).all(), form


def test_numpy_has_no_erf() -> None:
    problem = TINY.replace(activation="geglu")
    with pytest.raises(UsageError, match=r"^numpy: has no erf, so no fair geglu; leave it out"):
        NumpyPeer(problem, Weights.random(problem, 0), 2)


def entered(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any], load: str) -> Contestant:
    """A contestant of one form, for a workload whose weights stay warm (so: no probe)."""

    class Fake:
        def forms(self) -> dict[str, Any]:
            return {"only": call}

    monkeypatch.setitem(contestant.PEERS, "fake", lambda *_: Fake())
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
        ([1], ["nmpy"], r"^peer 'nmpy': not known; use numpy, torch$"),
        ([1], [], r"^peers: none given; use numpy, torch$"),
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
    monkeypatch.setattr(peers, "installed", lambda: ("numpy",))
    with pytest.raises(UsageError, match=r"^peer 'torch': .*pip install 'moetune\[compare\]'"):
        side_by_side(TINY, TARGET, Database(database), [1], ["torch"])


@pytest.mark.compiler
def test_end_to_end(monkeypatch: pytest.MonkeyPatch, database: Path) -> None:
    monkeypatch.setattr(peers, "EFFORT", Effort(budget_s=0.2, least_rounds=3, most_rounds=5))
    monkeypatch.setattr(peers, "RETRIES", 0)
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
    assert any("tiny, T=4 uniform: default, moe_cpu_" in note for note in notes)


@pytest.fixture
def script() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "cpu_layer.py"
    spec = importlib.util.spec_from_file_location("cpu_layer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(tokens: int, peer: str, **more: Any) -> PeerRow:
    fields: dict[str, Any] = {
        "load": "uniform", "variant": "v", "match": "exact", "ours_median_ns": 1.2345e6,
        "peer_median_ns": 250e6, "ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "gflop_s": 99.6,
        "gb_s": 40.2, "ceiling": "fma", "ceiling_fraction": 0.8, "temperature": "warm", "form": "f",
    }  # fmt: skip
    return PeerRow(tokens=tokens, peer=peer, **(fields | more))


def test_the_table(script: ModuleType) -> None:
    cold = {"ceiling": "read", "temperature": "cold", "match": "tokens"}
    results = {"a": [row(1, "numpy", **cold), row(1, "torch", **cold)], "b": [row(128, "numpy")]}
    assert script.table(results) == [
        "| model | tokens | match | ours, ms | rate | of ceiling "
        "| numpy, ms | ratio to numpy | torch, ms | ratio to torch |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| a | 1 (cold) | tokens | 1.23 | 40 GB/s | 0.80 "
        "| 250 (f) | 2.00 (1.90 to 2.10) | 250 (f) | 2.00 (1.90 to 2.10) |",
        "| b | 128 (warm) | exact | 1.23 | 100 GFLOP/s | 0.80 "
        "| 250 (f) | 2.00 (1.90 to 2.10) | - | - |",
    ]


def test_disturbed_cells_are_told(script: ModuleType) -> None:
    busy = {"foreign": 0.42}
    results = {"a": [row(1, "numpy"), row(16, "numpy", **busy), row(16, "torch", **busy)]}
    (_, told) = script.disturbed(results)
    assert told == "Disturbed by other processes, measure again: a T=16 (42%)."
    assert script.disturbed({"a": [row(1, "numpy")]}) == []


@pytest.mark.compiler
def test_the_page_names_what_repeats_it(script: ModuleType) -> None:
    options = script.parser().parse_args(
        ["--models", "a,b", "--tokens", "1,2", "--against", "numpy"]
    )
    text = script.page(script.surroundings(TARGET, options), {"a": [row(1, "numpy")]})
    command = (
        "python benchmarks/cpu_layer.py --models a,b --tokens 1,2 --dtype float32 --against numpy"
    )
    assert f"- repeat: `{command} --load uniform`" in text
    assert f"NumPy {np.__version__} (" in text


def test_a_model_that_is_not_known(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--models", "granit", "--tokens", "1"]) == 2
    assert "error: preset='granit': not known" in capsys.readouterr().err
