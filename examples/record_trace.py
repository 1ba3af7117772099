"""Records the traffic of a layer, for `moetune tune ... --load trace:FILE --tokens from-trace`.

    python examples/record_trace.py [FILE]

Here 20 decode steps and 2 prompts; a server would wrap its own loop in the same `with`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tuner

PROBLEM = tuner.Problem(hidden=256, expert_dim=128, num_experts=8, top_k=2)
TRAFFIC = [64, *[1] * 10, 64, *[1] * 10]


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "traffic.jsonl")
    layer = tuner.load(PROBLEM, tuner.Weights.random(PROBLEM, seed=0))
    x = np.random.default_rng(0).standard_normal((64, PROBLEM.hidden), dtype=np.float32)
    with tuner.trace(path):
        for tokens in TRAFFIC:
            layer(x[:tokens])
    stats = layer.stats()
    print(f"{stats.calls} calls, by octave of token counts: {dict(sorted(stats.tokens.items()))}")
    sizes = f"--hidden {PROBLEM.hidden} --expert-dim {PROBLEM.expert_dim}"
    sizes += f" --experts {PROBLEM.num_experts} --top-k {PROBLEM.top_k}"
    print(f"moetune tune {sizes} --load trace:{path} --tokens from-trace --time 1m")


if __name__ == "__main__":
    main()
