"""Peers: other libraries' layers beside ours, in one run."""
