"""The MAX op against the same layer in MAX's own graph operations, side by side on this machine.

Every graph has the same weights and tokens and runs in the same session; the graphs take turns, in a new
order each round, each after the caches were emptied (with few tokens) and all threads have gone to sleep.
Printed are medians, and for each form the median of the paired ratios form / op: above 1 the op is faster.

* dense: every token goes through every expert, in two products; the routing is a [T, E] matrix of weights
* gathered: the chosen experts' weights are gathered for every token; with few tokens only
* library: the same kernel outside MAX, `tuner.load`

    python benchmarks/max_op.py granite-3.0-1b-a400m --tokens 1,16,128 --rounds 25

The first run compiles the graphs, which takes minutes; MAX keeps them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from max.driver import Buffer
from max.dtype import DType
from max.engine import InferenceSession
from max.graph import DeviceRef, Graph, TensorType, TensorValue, ops

import tuner
import tuner.max
from tuner.cpu.buffers import allocate
from tuner.errors import UsageError
from tuner.intervals import median
from tuner.measure import reference

CPU = DeviceRef.CPU()
COLD_UP_TO = 16  # tokens; more read the weights often enough
EMPTYING_BYTES = 128 << 20
REST_S = 0.002  # threads that spin for work have given up by then
MOST_GATHERED = 2 << 30  # bytes of weights that the gathered form may copy in a call

Arrays = Mapping[str, np.ndarray[Any, Any]]
Run = Callable[[], Any]


def external(arrays: Arrays, name: str) -> TensorValue:
    array = arrays[name]
    return ops.constant_external(name, TensorType(DType.from_numpy(array.dtype), array.shape, CPU))


def routing(x: TensorValue, arrays: Arrays, problem: tuner.Problem) -> tuple[Any, Any]:
    """Weights and indices [T, k] of a softmax over the chosen logits."""
    logits = x @ external(arrays, "router")
    best, indices = ops.top_k(logits, problem.top_k)
    return ops.softmax(best), indices


def dense(x: TensorValue, arrays: Arrays, problem: tuner.Problem) -> TensorValue:
    e, f = problem.num_experts, problem.expert_dim
    weights, indices = routing(x, arrays, problem)
    zero = ops.broadcast_to(ops.constant(0, DType.float32, CPU), (x.shape[0], e))
    share = ops.unsqueeze(ops.scatter(zero, weights, indices, axis=1), 2)
    names = ("gate", "up", "down")
    gate, up, down = (external(arrays, name) for name in names)
    h = ops.silu(x @ gate) * (x @ up)
    h = ops.reshape(h, (x.shape[0], e, f)) * share
    return ops.reshape(h, (x.shape[0], e * f)) @ down


def dense_arrays(w: tuner.Weights) -> Arrays:
    d = w.router.shape[1]
    return {
        "router": w.router.T,
        "gate": w.gate.reshape(-1, d).T,
        "up": w.up.reshape(-1, d).T,
        "down": w.down.transpose(0, 2, 1).reshape(-1, d),
    }


def gathered(x: TensorValue, arrays: Arrays, problem: tuner.Problem) -> TensorValue:
    weights, indices = routing(x, arrays, problem)
    gate, up, down = (
        ops.gather(external(arrays, name), indices, axis=0) for name in ("gate", "up", "down")
    )
    rows = ops.broadcast_to(
        ops.reshape(x, (x.shape[0], 1, 1, problem.hidden)),
        (x.shape[0], problem.top_k, 1, problem.hidden),
    )
    out = (ops.silu(rows @ gate) * (rows @ up)) @ down
    out = ops.reshape(out, (x.shape[0], problem.top_k, problem.hidden)) * ops.unsqueeze(weights, 2)
    return ops.squeeze(ops.sum(out, axis=1), 1)


def stacked_arrays(w: tuner.Weights) -> Arrays:
    stacked = {name: getattr(w, name).transpose(0, 2, 1) for name in ("gate", "up", "down")}
    return {"router": w.router.T, **stacked}


FORMS = {
    "dense": (dense, dense_arrays),
    "gathered": (gathered, stacked_arrays),
}


def input_types(problem: tuner.Problem) -> list[TensorType]:
    return [TensorType(DType.float32, ["tokens", problem.hidden], CPU)]


def form_model(
    session: InferenceSession, name: str, problem: tuner.Problem, w: tuner.Weights
) -> Any:
    build, arrange = FORMS[name]
    arrays = {key: np.ascontiguousarray(array) for key, array in arrange(w).items()}
    graph = Graph(name, lambda x: build(x, arrays, problem), input_types=input_types(problem))
    return loaded(session, name, graph, arrays)


def op_model(
    session: InferenceSession, problem: tuner.Problem, w: tuner.Weights, tokens: int
) -> tuple[Any, tuner.max.MaxWeights]:
    ready = tuner.max.pack(w, problem, "layer", tokens=tokens)
    graph = Graph(
        "op",
        lambda x: tuner.max.moe(x, ready, problem),
        input_types=input_types(problem),
        custom_extensions=[ready.package],
    )
    return loaded(session, "op", graph, ready.registry), ready


def loaded(session: InferenceSession, name: str, graph: Graph, arrays: Arrays) -> Any:
    start = time.perf_counter()
    model = session.load(graph, weights_registry=arrays)
    print(f"{name}: loaded in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return model


def gathered_bytes(problem: tuner.Problem, tokens: int) -> int:
    return tokens * problem.top_k * problem.expert_weight_bytes


def contestants(
    models: Mapping[str, Any], problem: tuner.Problem, tokens: int, x: np.ndarray[Any, Any]
) -> Iterator[tuple[str, Run]]:
    buffer = Buffer.from_numpy(x)
    for name, model in models.items():
        if name == "gathered" and gathered_bytes(problem, tokens) > MOST_GATHERED:
            continue
        if name == "library":
            yield name, lambda model=model: model(x)
        else:
            yield name, lambda model=model: model.execute(buffer)[0]


def error(run: Run, right: np.ndarray[Any, Any]) -> float:
    """The largest error of a token, relative to its size."""
    y = run()
    y = y if isinstance(y, np.ndarray) else y.to_numpy()
    return float((np.linalg.norm(y - right, axis=1) / np.linalg.norm(right, axis=1)).max())


def race(runs: Mapping[str, Run], rounds: int, cold: bool) -> dict[str, list[int]]:
    """Samples of every contestant, ns, the n-th of each from the n-th round."""
    emptying = allocate(EMPTYING_BYTES // 4) + 1
    order = np.random.default_rng(0)
    samples: dict[str, list[int]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in order.permutation(list(runs)):
            if cold:
                emptying.sum()
            time.sleep(REST_S)
            start = time.perf_counter_ns()
            runs[name]()
            samples[name].append(time.perf_counter_ns() - start)
    return samples


def measure(
    models: Mapping[str, Any], problem: tuner.Problem, w: tuner.Weights, tokens: int, rounds: int
) -> None:
    """Prints a line for each contestant."""
    x = np.random.default_rng(1).standard_normal((tokens, problem.hidden), dtype=np.float32)
    runs = dict(contestants(models, problem, tokens, x))
    right = reference.moe(problem, w, x)
    errors = {name: error(run, right) for name, run in runs.items()}
    samples = race(runs, rounds, tokens <= COLD_UP_TO)
    for name, times in samples.items():
        ratios = [t / own for t, own in zip(times, samples["op"], strict=True)]
        ratio = median(ratios)
        shown = f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if name != "op" else ""
        print(
            f"{tokens:>6}  {name:<9} {median(times).value / 1e6:>9.3f} ms  {errors[name]:.1e}  {shown}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a preset: SwiGLU, softmax over the chosen logits, no biases")
    parser.add_argument("--tokens", default="1,16,128")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--forms", default=",".join(FORMS), help="none: the library alone")
    arguments = parser.parse_args()
    problem = tuner.Problem.preset(arguments.model)
    if (problem.score, problem.activation, problem.expert_bias) != (
        "topk_softmax",
        "swiglu",
        False,
    ):
        raise UsageError(
            f"{arguments.model}: has another expert or routing form; use granite-3.0-1b-a400m"
        )
    names = [] if arguments.forms == "none" else arguments.forms.split(",")
    w = tuner.Weights.random(problem, 0).check(problem)
    session = InferenceSession()
    others = {name: form_model(session, name, problem, w) for name in names}
    others["library"] = tuner.load(problem, w)
    print("tokens  form           median  error    form / op")
    for tokens in map(int, arguments.tokens.split(",")):
        op, ready = op_model(session, problem, w, tokens)
        print(f"{ready.selection.variant} ({ready.selection.match})", file=sys.stderr)
        measure({"op": op, **others}, problem, w, tokens, arguments.rounds)


if __name__ == "__main__":
    main()
