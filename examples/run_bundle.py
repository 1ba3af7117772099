"""Runs the layer of a bundle of float32: Python, NumPy and moetune's own files are enough.

    python examples/run_bundle.py granite.moe unsigned

The second argument is what is asked of the file: signed, unsigned or sha256:HEX. The weights are random here;
give those of the model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import tuner


def main(path: Path, trust: str) -> None:
    problem = tuner.bundle.open_bundle(path, trust).problem
    layer = tuner.load(path, tuner.Weights.random(problem, seed=0), trust=trust)
    x = np.random.default_rng(0).standard_normal((16, problem.hidden), dtype=np.float32)
    y = layer(x)
    print(layer)
    print(f"x {list(x.shape)} -> y {list(y.shape)}, by {layer.selection(16).variant}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
