"""PyTorch's layer, a peer: a MoE layer grouped by expert on the CPU, in its eager forms.

In the data type of the weights, with float32 routing. `F.linear` for each expert that has tokens,
the same transposed (with few tokens the matrix product is faster that way round), the same with
weights that oneDNN packed beforehand, and `F.grouped_mm` over all; a race takes the fastest.
The rest of the package imports this file where the peer is used alone: torch is an extra.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

from tuner.peers.peer import Floats, Form, Routing
from tuner.problem import Problem
from tuner.problem.arrays import to_numpy, to_torch
from tuner.problem.weights import Weights

# Any: the types must check alike where torch is not installed.
torch: Any = importlib.import_module("torch")
F: Any = torch.nn.functional
Tensor: TypeAlias = Any
_Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def _packs(dtype: str) -> bool:
    """Whether oneDNN packs matrices of this type beforehand on this machine."""
    if not torch.backends.mkldnn.is_available():
        return False
    known = {
        "float32": lambda: True,
        "bfloat16": torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "float16": torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return dtype in known and bool(known[dtype]())


class TorchLayer:
    """One layer's weights as tensors that share the arrays' memory."""

    def __init__(self, problem: Problem, weights: Weights, threads: int) -> None:
        torch.set_num_threads(threads)
        self.problem = problem
        arrays = {name: value for name, value in vars(weights).items() if value is not None}
        self._w: dict[str, Tensor] = {name: to_torch(a) for name, a in arrays.items()}
        for name in ("router", "router_bias", "correction_bias"):  # as everybody does who cares
            if name in self._w:
                self._w[name] = self._w[name].float()

    def forms(self) -> dict[str, Form]:
        """The forms by name."""
        forms = {
            "F.linear per expert": self._form(self._per_expert(self._rows)),
            "mm per expert, transposed": self._form(self._per_expert(self._columns)),
            "F.grouped_mm": self._form(self._grouped),
        }
        if _packs(self.problem.dtype):
            forms["packed linear per expert"] = self._form(self._per_expert(self._packed_rows))
        return forms

    def _form(self, experts: _Layer) -> Form:
        def run(x: Floats, routing: Routing | None) -> Floats:
            with torch.inference_mode():
                return self._layer(to_torch(x), routing, experts)

        return run

    def _layer(self, x: Tensor, routing: Routing | None, experts: _Layer) -> Floats:
        if routing is None:
            indices, chosen = self._route(x.float())
        else:
            indices, chosen = (torch.from_numpy(array) for array in routing)
        y = experts(x, indices, chosen)
        if self.problem.shared_dim:
            names = ("shared_gate", "shared_up", "shared_down")
            gate, up, down = (self._w.get(name) for name in names)
            gated = None if gate is None else F.linear(x, gate)
            y += F.linear(self._activate(gated, F.linear(x, up)), down)
        return to_numpy(y)

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.problem
        scores = F.linear(x, self._w["router"], self._w.get("router_bias"))
        if p.score == "softmax":
            scores = scores.softmax(1)
        elif p.score == "sigmoid":
            scores = scores.sigmoid()
        biased = scores + self._w["correction_bias"] if p.correction_bias else scores
        indices = self._masked_by_group(biased).topk(p.top_k, sorted=False).indices
        chosen = scores.gather(1, indices)
        if p.score == "topk_softmax":
            chosen = chosen.softmax(1)
        elif p.renormalize:
            chosen = chosen / (chosen.sum(1, keepdim=True) + 1e-20)
        return indices, chosen * p.routing_scale if p.routing_scale != 1 else chosen

    def _masked_by_group(self, scores: Tensor) -> Tensor:
        p = self.problem
        if p.num_groups == 1:
            return scores
        groups = scores.view(len(scores), p.num_groups, -1)
        best = groups.topk(min(2, groups.shape[2]), sorted=False).values.sum(2)
        kept = best.topk(p.top_groups, sorted=False).indices
        dropped = torch.ones_like(best, dtype=torch.bool).scatter_(1, kept, False)
        return groups.masked_fill(dropped[:, :, None], -torch.inf).view_as(scores)

    def _sorted(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The pairs sorted by expert [T k], and how many each expert has [E]."""
        flat = indices.flatten()
        return flat.argsort(stable=True), flat.bincount(minlength=self.problem.num_experts)

    def _per_expert(self, run: Callable[[int, Tensor], Tensor]) -> _Layer:
        def experts(x: Tensor, indices: Tensor, chosen: Tensor) -> Tensor:
            order, counts = self._sorted(indices)
            tokens, weights = order // self.problem.top_k, chosen.flatten()[order, None]
            y = torch.zeros_like(x)
            end = 0
            for expert, count in enumerate(counts.tolist()):
                start, end = end, end + count
                if count:
                    mine = tokens[start:end]
                    out = run(expert, x.index_select(0, mine))
                    y.index_add_(0, mine, out.mul_(weights[start:end]))
            return y

        return experts

    def _rows(self, expert: int, x: Tensor) -> Tensor:
        """One expert on x [n, D]."""

        def linear(name: str, x: Tensor) -> Tensor:
            bias = self._w.get(f"{name}_bias")
            return F.linear(x, self._w[name][expert], None if bias is None else bias[expert])

        gate = linear("gate", x) if self.problem.gated else None
        return linear("down", self._activate(gate, linear("up", x)))

    def _packed_rows(self, expert: int, x: Tensor) -> Tensor:
        """The same by oneDNN on its own layout, as torch.compile does where weights are frozen."""

        def linear(name: str, x: Tensor) -> Tensor:
            bias = self._w.get(f"{name}_bias")
            mine = None if bias is None else bias[expert]
            matrix = self._packed[name][expert]
            return torch.ops.mkldnn._linear_pointwise(x, matrix, mine, "none", [], "")

        gate = linear("gate", x) if self.problem.gated else None
        return linear("down", self._activate(gate, linear("up", x)))

    @cached_property
    def _packed(self) -> dict[str, list[Tensor]]:
        """A second copy of the experts' matrices."""
        names = ("gate", "up", "down") if self.problem.gated else ("up", "down")
        pack = torch.ops.mkldnn._reorder_linear_weight
        return {name: [pack(matrix) for matrix in self._w[name]] for name in names}

    def _columns(self, expert: int, x: Tensor) -> Tensor:
        """The same by matrix [F, D] times x.T [D, n]."""

        def linear(name: str, columns: Tensor) -> Tensor:
            out = torch.mm(self._w[name][expert], columns)
            bias = self._w.get(f"{name}_bias")
            return out if bias is None else out.add_(bias[expert, :, None])

        columns = x.t()
        gate = linear("gate", columns) if self.problem.gated else None
        return linear("down", self._activate(gate, linear("up", columns))).t()

    def _grouped(self, x: Tensor, indices: Tensor, chosen: Tensor) -> Tensor:
        order, counts = self._sorted(indices)
        tokens, experts = order // self.problem.top_k, indices.flatten()[order]
        ends = counts.cumsum(0, dtype=torch.int32)
        mine = x.index_select(0, tokens)
        gate = self._grouped_mm("gate", mine, ends, experts) if self.problem.gated else None
        hidden = self._activate(gate, self._grouped_mm("up", mine, ends, experts))
        out = self._grouped_mm("down", hidden, ends, experts)
        out *= chosen.flatten()[order, None]
        return torch.zeros_like(x).index_add_(0, tokens, out)

    def _grouped_mm(self, name: str, x: Tensor, ends: Tensor, experts: Tensor) -> Tensor:
        out = F.grouped_mm(x, self._w[name].transpose(1, 2), offs=ends)
        bias = self._w.get(f"{name}_bias")
        return out if bias is None else out.add_(bias.index_select(0, experts))

    def _activate(self, gate: Tensor | None, up: Tensor) -> Tensor:
        p = self.problem
        if gate is None:
            return F.relu_(up)
        if p.activation.startswith("geglu"):
            approximate = "tanh" if p.activation == "geglu_tanh" else "none"
            return F.gelu(gate, approximate=approximate).mul_(up)
        if p.activation == "swiglu":
            return F.silu(gate, inplace=True).mul_(up)
        gate = gate.clamp_(max=p.swiglu_limit)
        up = up.clamp_(-p.swiglu_limit, p.swiglu_limit).add_(1)
        return up.mul_(gate).mul_(gate.mul_(p.swiglu_alpha).sigmoid_())
