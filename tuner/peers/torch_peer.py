"""The PyTorch peer: its row. The layer is a file of its own, as torch is an extra and slow to import."""

from __future__ import annotations

from tuner.peers.peer import Peer, PeerLayer
from tuner.problem import Problem
from tuner.problem.weights import Weights


def _make(problem: Problem, weights: Weights, threads: int) -> PeerLayer:
    from tuner.peers.torch_layer import TorchLayer

    return TorchLayer(problem, weights, threads)


# Copies: as given, and packed.
PEER = Peer(name="torch", title="PyTorch", make=_make, modules=("torch",), copies=2, rank=1)
