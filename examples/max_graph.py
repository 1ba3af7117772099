"""A MAX graph with a tuned MoE layer in it: y = x + moe(norm(x)), on the CPU.

    python examples/max_graph.py

The weights are random. The first run compiles the kernel, then the graph with it; both are kept.
"""

from __future__ import annotations

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

import tuner
import tuner.max

PROBLEM = tuner.Problem.preset("classic-moe")
TOKENS = 16


def main() -> None:
    ready = tuner.max.pack(
        tuner.Weights.random(PROBLEM, seed=0), PROBLEM, "layers.0.moe", tokens=TOKENS
    )
    cpu = DeviceRef.CPU()
    scale = np.ones(PROBLEM.hidden, np.float32)

    def block(x: TensorValue) -> TensorValue:
        normed = ops.rms_norm(x, ops.constant(scale, DType.float32, cpu), epsilon=1e-6)
        return x + tuner.max.moe(normed, ready, PROBLEM)

    graph = Graph(
        "block",
        block,
        input_types=[TensorType(DType.float32, ["tokens", PROBLEM.hidden], cpu)],
        custom_extensions=[ready.package],
    )
    model = InferenceSession().load(graph, weights_registry=ready.registry)

    x = np.random.default_rng(0).standard_normal((TOKENS, PROBLEM.hidden), dtype=np.float32)
    (y,) = model.execute(Buffer.from_numpy(x))
    moved = np.abs(y.to_numpy() - x).max()
    print(f"{PROBLEM.describe()}: {ready.selection.variant} ({ready.selection.match})")
    print(f"x {list(x.shape)} -> y {list(y.shape)}, at most {moved:.3f} from x")


if __name__ == "__main__":
    main()
