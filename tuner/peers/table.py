"""The table of peers: what the files `*_peer.py` of this room say of their libraries."""

from __future__ import annotations

from tuner import discovery
from tuner.peers.peer import Peer


def found() -> dict[str, Peer]:
    """The peers of all files, by name, in their order in lists."""
    peers = [module.PEER for module in discovery.modules("tuner.peers", "_peer")]
    return {peer.name: peer for peer in sorted(peers, key=lambda peer: peer.rank)}


PEERS = found()
