"""Runs one MoE layer on NumPy arrays.

    python examples/run_layer.py

The weights are random. The first run compiles the kernel, which takes some seconds; it is kept.
"""

from __future__ import annotations

import numpy as np

import tuner

PROBLEM = tuner.Problem(hidden=256, expert_dim=128, num_experts=8, top_k=2)


def main() -> None:
    layer = tuner.load(PROBLEM, tuner.Weights.random(PROBLEM, seed=0))
    x = np.random.default_rng(0).standard_normal((16, PROBLEM.hidden), dtype=np.float32)
    y, experts, weights = layer(x, return_routing=True)
    print(f"{PROBLEM.describe()}: x {list(x.shape)} -> y {list(y.shape)}")
    print(
        f"token 0 went to experts {experts[0].tolist()} with weights {weights[0].round(3).tolist()}"
    )
    print(f"kernel for 16 tokens: {layer.selection(16).match}")


if __name__ == "__main__":
    main()
