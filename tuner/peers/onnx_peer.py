"""The ONNX Runtime peer: a MoE layer by its operator `com.microsoft::MoE` on the CPU, in float32.

The operator takes the router's logits, makes softmax over all and top-k of them, and gives every
thread experts to run one after the other. Whatever else a layer has (sigmoid scores, groups, an
imposed routing, a shared expert) stands around it in the same graph.
What it computes: docs/ContribOperators.md (com.microsoft.MoE) and
onnxruntime/contrib_ops/cpu/moe/moe_cpu.cc, https://github.com/microsoft/onnxruntime.
The rest of the package runs without this file's libraries: they are extras.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tuner.peers.peer import Floats, Form, Peer, Routing
from tuner.problem import Problem
from tuner.problem.weights import Weights

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

_HEADER = '<ir_version: 10, opset_import: ["": 21, "com.microsoft": 1]>'
# Our names to the operator's.
_ACTIVATIONS = {"relu": "relu", "swiglu": "swiglu", "swiglu_clamped": "swiglu"}
_EXPERTS = ("fc1", "fc1_bias", "fc2", "fc2_bias")
_ROUTER = ("router", "router_bias", "correction_bias")
_SHARED = ("shared_gate", "shared_up", "shared_down")
# Low enough that its softmax is 0, and that no score added to it matters.
_NEVER = "<value = float[1] {-1e30}>"


def refusal(problem: Problem) -> str:
    """Why the operator cannot run a problem; empty where it can."""
    if problem.dtype != "float32":
        return f"its MoE operator runs in float32 alone on the CPU, not in {problem.dtype}"
    if problem.activation not in _ACTIVATIONS:
        return f"its MoE operator has no {problem.activation} on the CPU"
    if problem.shared_dim and problem.activation == "swiglu_clamped":
        return "its graph has no shared expert of clamped SwiGLU"
    return ""


class OnnxPeer:
    """One layer's weights, and a session for each way of routing: the layer's own, or imposed.

    The experts' arrays are inputs of the graph that share NumPy's memory: as initializers they
    would be copied. The operator packs nothing beforehand, so it is none the slower.
    """

    def __init__(self, problem: Problem, weights: Weights, threads: int) -> None:
        self.problem, self.threads = problem, threads
        self._experts = _operator_weights(weights)
        self._weights = weights
        self._sessions: dict[bool, _OnnxSession] = {}

    def forms(self) -> dict[str, Form]:
        """The forms by name: with everything bound beforehand, and with arrays as they come."""
        return {
            "MoE, bound": lambda x, routing: self._session(routing).bound(_inputs(x, routing)),
            "MoE, arrays": lambda x, routing: self._session(routing).arrays(_inputs(x, routing)),
        }

    def _session(self, routing: Routing | None) -> _OnnxSession:
        imposed = routing is not None
        if imposed not in self._sessions:
            names = _SHARED if imposed else _ROUTER + _SHARED
            arrays = {name: getattr(self._weights, name) for name in names}
            around = {name: array for name, array in arrays.items() if array is not None}
            text = graph(self.problem, self._experts, imposed)
            self._sessions[imposed] = _OnnxSession(text, self._experts, around, self.threads)
        return self._sessions[imposed]


def _operator_weights(weights: Weights) -> Arrays:
    """The experts' arrays as the operator wants them."""
    arrays = {
        "fc1": _interleaved(weights.gate, weights.up),
        "fc1_bias": _interleaved(weights.gate_bias, weights.up_bias),
        "fc2": weights.down,
        "fc2_bias": weights.down_bias,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def _interleaved(gate: Any, up: Any) -> Any:
    """Rows of gate and up in turn: [E, 2 F, D], or [E, 2 F] of biases; `up` where there is no gate."""
    if gate is None:
        return up
    both = np.empty((up.shape[0], 2 * up.shape[1], *up.shape[2:]), up.dtype)
    both[:, 0::2] = gate
    both[:, 1::2] = up
    return both


def _inputs(x: Floats, routing: Routing | None) -> Arrays:
    if routing is None:
        return {"x": x}
    return {"x": x, "indices": routing[0].astype(np.int32, copy=False), "weights": routing[1]}


class _OnnxSession:
    """A graph that is ready to run; `around` are its initializers, held as external data, as a
    model of over 2 GB cannot be serialised."""

    def __init__(self, text: str, experts: Arrays, around: Arrays, threads: int) -> None:
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._as_value = ort.OrtValue.ortvalue_from_numpy
        values = [self._as_value(array) for array in around.values()]
        options.add_external_initializers(list(around), values)
        model = _model(text, around)
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        for name, array in experts.items():
            self._binding.bind_cpu_input(name, array)
        self._experts = experts
        self._y = np.empty((0, 0), np.float32)

    def bound(self, inputs: Arrays) -> Floats:
        """One call with weights and output bound; y lasts until the next call."""
        for name, array in inputs.items():
            self._binding.bind_cpu_input(name, array)
        if self._y.shape != inputs["x"].shape:
            self._y = np.empty_like(inputs["x"])
            self._binding.bind_ortvalue_output("y", self._as_value(self._y))
        self._session.run_with_iobinding(self._binding)
        return self._y

    def arrays(self, inputs: Arrays) -> Floats:
        """One call that is given NumPy arrays, and makes one."""
        y: Floats = self._session.run(["y"], {**self._experts, **inputs})[0]
        return y


def _model(text: str, around: Arrays) -> bytes:
    """The serialised model, whose initializers say that their data is elsewhere."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.parser.parse_model(text)
    for name, array in around.items():
        tensor = model.graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT)
        tensor.dims.extend(array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="given")
    serialised: bytes = model.SerializeToString()
    return serialised


def graph(problem: Problem, experts: Arrays, imposed: bool) -> str:
    """The layer in ONNX's text form (https://onnx.ai/onnx/repo-docs/Syntax.html).

    `imposed`: indices [T, k] and weights [T, k] are inputs; else the layer routes for itself.
    """
    p = problem
    inputs = [f"float[T, {p.hidden}] x"]
    if imposed:
        inputs += [f"int32[T, {p.top_k}] indices", f"float[T, {p.top_k}] weights"]
    inputs += [f"float[{', '.join(map(str, a.shape))}] {name}" for name, a in experts.items()]
    nodes = _routing(p, imposed)
    if p.shared_dim:
        nodes += [*_routed(p, experts, imposed, "routed_y"), *_shared(p)]
        nodes.append("y = Add (routed_y, shared_y)")
    else:
        nodes += _routed(p, experts, imposed, "y")
    body = "\n".join(f"  {node}" for node in nodes)
    head = f"layer ({', '.join(inputs)}) => (float[T, {p.hidden}] y)"
    return f"{_HEADER}\n{head} {{\n{body}\n}}\n"


def _is_plain(p: Problem, imposed: bool) -> bool:
    """Whether the operator's own routing is the layer's: softmax over the k chosen logits is
    softmax over all, divided by the sum of the k."""
    return not imposed and p.score != "sigmoid" and not p.correction_bias


def _routing(p: Problem, imposed: bool) -> list[str]:
    """Nodes that end in `logits` [T, E] for the operator and, unless it routes by its own rule,
    the `weights` [T, k] that it shall come to."""
    nodes = [] if imposed else [f"router_logits = {_gemm('x', 'router', p.router_bias)}"]
    if _is_plain(p, imposed):
        return [*nodes, "logits = Identity (router_logits)"]
    if not imposed:
        nodes += [*_scores(p), *_chosen(p)]
    return [
        *nodes,
        # Softmax over logarithms of the weights where they belong is the weights / their sum.
        "rows = Shape <end = 1> (x)",
        f"columns = Constant <value_ints = [{p.num_experts}]> ()",
        "every = Concat <axis = 0> (rows, columns)",
        f"never = ConstantOfShape {_NEVER} (every)",
        "logarithms = Log (weights)",
        "logits = ScatterElements <axis = 1> (never, indices, logarithms)",
    ]


def _gemm(x: str, matrix: str, bias: bool = False) -> str:
    return f"Gemm <transB = 1> ({x}, {matrix}{f', {matrix}_bias' if bias else ''})"


def _scores(p: Problem) -> list[str]:
    """Nodes that end in `scores` [T, E] and `masked`, by which experts are chosen."""
    kind = "Sigmoid" if p.score == "sigmoid" else "Softmax <axis = 1>"
    bias = "Add (scores, correction_bias)" if p.correction_bias else "Identity (scores)"
    nodes = [f"scores = {kind} (router_logits)", f"biased = {bias}"]
    if p.num_groups == 1:
        return [*nodes, "masked = Identity (biased)"]
    size = p.num_experts // p.num_groups
    return [
        *nodes,
        f"by_group = Constant <value_ints = [-1, {p.num_groups}, {size}]> ()",
        "groups = Reshape (biased, by_group)",
        f"two = Constant <value_ints = [{min(2, size)}]> ()",
        "best, _best = TopK (groups, two)",
        "last = Constant <value_ints = [2]> ()",
        "group_scores = ReduceSum <keepdims = 0> (best, last)",
        f"some = Constant <value_ints = [{p.top_groups}]> ()",
        "kept_scores, kept = TopK (group_scores, some)",
        "groups_shape = Shape (group_scores)",
        f"dropped = ConstantOfShape {_NEVER} (groups_shape)",
        "zeros = Sub (kept_scores, kept_scores)",
        "mask = ScatterElements <axis = 1> (dropped, kept, zeros)",
        "group_mask = Unsqueeze (mask, last)",
        "masked_groups = Add (groups, group_mask)",
        f"by_expert = Constant <value_ints = [-1, {p.num_experts}]> ()",
        "masked = Reshape (masked_groups, by_expert)",
    ]


def _chosen(p: Problem) -> list[str]:
    """Nodes that end in `indices` [T, k] and `weights` [T, k]."""
    nodes = [
        f"k = Constant <value_ints = [{p.top_k}]> ()",
        "_masked, indices = TopK (masked, k)",
        "chosen = GatherElements <axis = 1> (scores, indices)",
        f"scale = Constant <value_float = {p.routing_scale}> ()",
    ]
    if not p.renormalize:
        return [*nodes, "weights = Mul (chosen, scale)"]
    return [
        *nodes,
        "one = Constant <value_ints = [1]> ()",
        "sum = ReduceSum (chosen, one)",
        "shares = Div (chosen, sum)",
        "weights = Mul (shares, scale)",
    ]


def _routed(p: Problem, experts: Arrays, imposed: bool, out: str) -> list[str]:
    """The operator, and what its weights, which sum to 1 unless it routes by its own rule, lack."""
    names = ", ".join(name if name in experts else '""' for name in _EXPERTS)
    moe = f"com.microsoft.MoE <{_attributes(p)}> (x, logits, {names})"
    plain = _is_plain(p, imposed)
    if p.routing_scale == 1 and (plain or p.renormalize):
        return [f"{out} = {moe}"]
    if plain:
        factor = [f"factor = Constant <value_float = {p.routing_scale}> ()"]
    else:
        factor = ["across = Constant <value_ints = [1]> ()", "factor = ReduceSum (weights, across)"]
    return [f"unscaled_y = {moe}", *factor, f"{out} = Mul (unscaled_y, factor)"]


def _attributes(p: Problem) -> str:
    values: dict[str, Any] = {
        "k": p.top_k,
        "activation_type": f'"{_ACTIVATIONS[p.activation]}"',
        "normalize_routing_weights": int(p.renormalize),
    }
    if p.activation == "swiglu":
        values |= {"swiglu_fusion": 1, "activation_alpha": 1.0, "activation_beta": 0.0}
    elif p.activation == "swiglu_clamped":
        values |= {"swiglu_fusion": 1, "activation_alpha": p.swiglu_alpha, "activation_beta": 1.0}
        values["swiglu_limit"] = p.swiglu_limit
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _shared(p: Problem) -> list[str]:
    """The shared expert, by products that run on all threads; ends in `shared_y`."""
    nodes = [f"shared_u = {_gemm('x', 'shared_up')}"]
    if p.gated:
        nodes += [
            f"shared_g = {_gemm('x', 'shared_gate')}",
            "shared_s = Sigmoid (shared_g)",
            "shared_a = Mul (shared_g, shared_s)",
            "shared_h = Mul (shared_a, shared_u)",
        ]
    else:
        nodes.append("shared_h = Relu (shared_u)")
    return [*nodes, f"shared_y = {_gemm('shared_h', 'shared_down')}"]


# Copies: as given, and gate and up interleaved.
PEER = Peer(
    name="onnxruntime",
    title="ONNX Runtime",
    make=OnnxPeer,
    modules=("onnxruntime", "onnx"),
    copies=5 / 3,
    refusal=refusal,
    rank=2,
)
