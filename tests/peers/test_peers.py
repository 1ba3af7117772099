"""The table of peers: a library is a file, found by its name, and not loaded before it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tuner.peers
from tests.rows import TARGET
from tuner.errors import UsageError
from tuner.peers import compare, table
from tuner.peers.contestant import Contestant
from tuner.peers.table import PEERS
from tuner.problem import Problem
from tuner.problem.workload import Workload

LAYER = Problem(hidden=64, expert_dim=32, num_experts=8, top_k=2, name="tiny")
TOY = """
from tuner.measure.reference import moe
from tuner.peers.peer import Peer


class Layer:
    def __init__(self, problem, weights, threads):
        self.problem, self.weights = problem, weights

    def forms(self):
        return {"float64": lambda x, routing: moe(self.problem, self.weights, x, routing)}


def refusal(problem):
    return "it has no biases" if problem.expert_bias else ""


PEER = Peer(name="toy", make=Layer, modules=("MODULE",), copies=1, refusal=refusal)
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A room with one more file; the table as it is read there."""
    (tmp_path / "toy_peer.py").write_text(TOY.replace("MODULE", "numpy"))
    monkeypatch.setattr(tuner.peers, "__path__", [*tuner.peers.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tuner.peers.toy_peer", raising=False)
    for name, peer in table.found().items():
        monkeypatch.setitem(PEERS, name, peer)
    return tmp_path


def test_the_table() -> None:
    assert list(PEERS) == ["numpy", "torch", "onnxruntime"]
    assert all(name == peer.name for name, peer in PEERS.items())


def test_a_peer_is_one_file(toy: Path) -> None:
    assert list(PEERS)[-1] == "toy"
    assert "toy" in compare.installed()
    assert compare.copies(LAYER, ["toy"]) == 3
    assert compare.copies(LAYER.replace(expert_bias=True), ["toy"]) == 2
    compare.require(["toy"])
    with pytest.raises(UsageError, match="'jax': not known; use numpy, torch, onnxruntime, toy"):
        compare.require(["jax"])
    state = Contestant(LAYER, TARGET, 0)
    entry = state.enter("toy", Workload(20, "onehot"))
    assert (entry.form, list(entry.forms)) == ("float64", ["float64"])
    assert state.sample(0).ns > 0
    assert np.isfinite(entry.error)


def test_the_command_line_knows_it_and_loads_no_library(tmp_path: Path) -> None:
    (tmp_path / "toy_peer.py").write_text(TOY.replace("MODULE", "no_such_module"))
    script = (
        "import sys, tuner.peers\n"
        f"tuner.peers.__path__.append({str(tmp_path)!r})\n"
        "from tuner.cli import main\n"
        "code = main(['bench', '--help'])\n"
        "code += main(['bench', 'classic-moe', '--against', 'toy'])\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'no_such_module'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Of numpy, torch, onnxruntime, toy;" in " ".join(done.stdout.split())
    assert done.stderr == (
        "moetune: peer 'toy': no_such_module is not installed; "
        "pip install 'moetune[compare]', or leave it out\n"
    )
    assert done.returncode == 2
