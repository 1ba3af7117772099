"""Problem: the frozen key of one MoE layer, built by hand, from a preset or from a config.json.

Everything that changes what the layer computes is a field; ``name`` is a label and no part of the
key. The key's digest is what the database and the caches know the layer by.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tuner.errors import ProblemError
from tuner.host import notebook
from tuner.host.arguments import require, shown
from tuner.problem.dtypes import DTYPES
from tuner.problem.forms import ACTIVATIONS, SCORES, SWIGLU_ALPHA, SWIGLU_LIMIT
from tuner.problem.hf_config import read_hf_config
from tuner.problem.presets import FIELDS

_CHOICES: dict[str, Iterable[str]] = {
    "activation": ACTIVATIONS,
    "score": SCORES,
    "dtype": DTYPES,
    "weight_dtype": DTYPES,
    "accum_dtype": ("float32",),
}
# Whole numbers: the least value, and what to give instead.
_INTEGERS = {
    "hidden": (1, "give the model's hidden size"),
    "expert_dim": (1, "give the width of one expert"),
    "num_experts": (1, "give the number of routed experts"),
    "top_k": (1, "give the number of experts per token"),
    "num_groups": (1, "use 1 where experts are not grouped"),
    "top_groups": (1, "use 1 where experts are not grouped"),
    "shared_dim": (0, "use 0 where there is no shared expert"),
}
# Sizes beyond this are none of a layer, and their products none that a number of 64 bits holds.
_MOST = (1 << 31) - 1
_FLAGS = ("expert_bias", "renormalize", "router_bias", "correction_bias")
_CLAMP = ("swiglu_limit", "swiglu_alpha")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One MoE layer: sizes, expert form, routing form, data types.

    An expert maps x [D] to ``down @ (act(gate @ x) * (up @ x))``, or with ``relu`` (two matrices,
    no gate) to ``down @ relu(up @ x)``. By hand, routing is softmax over all experts, top-k,
    renormalised, unless said.

    Attributes:
        hidden: D, the width of a token.
        expert_dim: F, the inner width of one routed expert.
        num_experts: E.
        top_k: k, experts per token; at most E, and at most the experts of the kept groups.
        activation: swiglu, geglu (exact erf), geglu_tanh, swiglu_clamped (gpt-oss) or relu.
        expert_bias: every expert matrix has a bias.
        swiglu_limit: swiglu_clamped only: gate <= limit, -limit <= up <= limit; else 0.
        swiglu_alpha: swiglu_clamped only: gate * sigmoid(alpha * gate) * (up + 1); else 0.
        score: softmax (over all, before top-k), topk_softmax (over the k chosen logits), sigmoid.
        renormalize: divide the k weights by their sum; topk_softmax always sums to 1.
        routing_scale: factor on the weights at the end.
        num_groups: sigmoid only: the experts in this many equal groups, in index order.
        top_groups: of which this many stay; a group counts its two best (biased) scores.
        router_bias: logits += router_bias.
        correction_bias: the choice, not the weight, uses score + correction_bias.
        shared_dim: Fs, inner width of the shared expert (same activation, no biases, weight 1,
            every token); 0 where there is none.
        dtype: of the activations; ``weight_dtype`` follows it unless given.
        accum_dtype: of the sums inside a kernel.
        name: a label; no part of the key.

    Raises:
        ProblemError: a field out of range or not known; names field, value, rule and mend.
    """

    hidden: int
    expert_dim: int
    num_experts: int
    top_k: int
    activation: str = "swiglu"
    expert_bias: bool = False
    swiglu_limit: float = SWIGLU_LIMIT
    swiglu_alpha: float = SWIGLU_ALPHA
    score: str = "softmax"
    renormalize: bool = True
    routing_scale: float = 1.0
    num_groups: int = 1
    top_groups: int = 1
    router_bias: bool = False
    correction_bias: bool = False
    shared_dim: int = 0
    dtype: str = "float32"
    weight_dtype: str = ""
    accum_dtype: str = "float32"
    name: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        require("name", self.name, str)
        if isinstance(self.weight_dtype, str) and self.weight_dtype == "":
            object.__setattr__(self, "weight_dtype", self.dtype)
        for field, allowed in _CHOICES.items():
            _check_choice(field, getattr(self, field), allowed)
        if self.activation != "swiglu_clamped":
            # Values that nothing reads must not make two keys of one layer.
            for field in _CLAMP:
                object.__setattr__(self, field, 0.0)
        for field, (least, mend) in _INTEGERS.items():
            object.__setattr__(self, field, _integer(field, getattr(self, field), least, mend))
        for field in _FLAGS:
            _check_flag(field, getattr(self, field))
        for field in self._factors:
            object.__setattr__(self, field, _positive(field, getattr(self, field)))
        _check_routing(self)

    def __repr__(self) -> str:
        told = ", ".join(f"{field}={value!r}" for field, value in self._told())
        return f"Problem({told})"

    def _repr_html_(self) -> str:
        return notebook.table(f"Problem {self.name}".strip(), self._told())

    def _told(self) -> list[tuple[str, Any]]:
        """The fields that make this Problem again: those that are not as they are without a word."""
        usual: dict[str, Any] = {"weight_dtype": self.dtype}
        if self.activation != "swiglu_clamped":
            usual |= dict.fromkeys(_CLAMP, 0.0)
        fields = ((f, getattr(self, f.name)) for f in dataclasses.fields(self))
        return [(f.name, v) for f, v in fields if v != usual.get(f.name, f.default)]

    @property
    def _factors(self) -> tuple[str, ...]:
        clamp = _CLAMP if self.activation == "swiglu_clamped" else ()
        return ("routing_scale", *clamp)

    @property
    def key(self) -> dict[str, Any]:
        """Every compared field by name, sorted; JSON-able; ``from_key`` is the way back."""
        return {field: getattr(self, field) for field in KEY_FIELDS}

    @cached_property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the key as canonical JSON."""
        text = json.dumps(self.key, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def gated(self) -> bool:
        """Whether an expert has three matrices (gate, up, down) rather than two."""
        return self.activation != "relu"

    @property
    def _matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def flops_per_pair(self) -> int:
        """Operations of one token in one routed expert: 2 per weight of its matrices."""
        return 2 * self.hidden * self.expert_dim * self._matrices

    @property
    def shared_flops_per_token(self) -> int:
        """Operations of one token in the shared expert; 0 where there is none."""
        return 2 * self.hidden * self.shared_dim * self._matrices

    @property
    def expert_weight_bytes(self) -> int:
        """Bytes of one routed expert: its matrices and its biases."""
        count = self.hidden * self.expert_dim * self._matrices
        if self.expert_bias:
            count += self.expert_dim * (self._matrices - 1) + self.hidden
        return count * DTYPES[self.weight_dtype].bytes

    @property
    def shared_weight_bytes(self) -> int:
        """Bytes of the shared expert; 0 where there is none."""
        return self.hidden * self.shared_dim * self._matrices * DTYPES[self.weight_dtype].bytes

    @property
    def router_weight_bytes(self) -> int:
        """Bytes of the router's matrix and its biases."""
        rows = self.hidden + self.router_bias + self.correction_bias
        return self.num_experts * rows * DTYPES[self.weight_dtype].bytes

    def describe(self) -> str:
        """One line for people: label, sizes, expert form, routing form, data types."""
        sizes = f"D={self.hidden} F={self.expert_dim} E={self.num_experts} k={self.top_k}"
        dtypes = self.dtype
        if self.weight_dtype != self.dtype:
            dtypes += f", {self.weight_dtype} weights"
        words = [sizes, self.activation, self.score, *_notes(self), dtypes]
        return (f"{self.name}: " if self.name else "") + ", ".join(words)

    def replace(self, **changes: Any) -> Problem:
        """Return a copy with some fields changed; the label stays unless it is given.

        ``weight_dtype`` follows a new ``dtype`` where it was the same before, and a change to
        swiglu_clamped starts from the limit and alpha of gpt-oss.

        Raises:
            ProblemError: a field that is not known, or a value out of range.
        """
        _check_known(changes, (*KEY_FIELDS, "name"))
        values = {**self.key, "name": self.name}
        if self.weight_dtype == self.dtype:
            values["weight_dtype"] = ""
        if self.activation != "swiglu_clamped":
            values.update(swiglu_limit=SWIGLU_LIMIT, swiglu_alpha=SWIGLU_ALPHA)
        return Problem(**{**values, **changes})

    @classmethod
    def from_key(cls, key: Mapping[str, Any], name: str = "") -> Problem:
        """Build the Problem whose ``key`` this is.

        Raises:
            ProblemError: a field that is not known or lacking, or a value out of range.
        """
        require("key", key, Mapping)
        _check_known(key, KEY_FIELDS)
        lacking = [field for field in KEY_FIELDS if field not in key]
        if lacking:
            raise ProblemError(f"problem key: lacks {', '.join(lacking)}; give every field")
        return cls(**key, name=name)

    @classmethod
    def from_hf_config(
        cls, source: str | os.PathLike[str] | Mapping[str, Any], dtype: str = "float32"
    ) -> Problem:
        """Read a Hugging Face ``config.json`` (path, model folder or parsed object).

        ``dtype`` is that of activations and weights at run time; the file's torch_dtype is not read.

        Raises:
            ProblemError: missing, not JSON, lacks a field, or a form that is not known.
        """
        fields, name, where = read_hf_config(source)
        try:
            return cls(**fields, dtype=dtype, name=name)
        except ProblemError as error:
            raise ProblemError(f"{where}: {error}") from None

    @classmethod
    def preset(cls, name: str) -> Problem:
        """Return the named preset, in float32.

        Raises:
            ProblemError: no preset has this name; lists those that are close, and all.
        """
        require("name", name, str)
        if name in PRESETS:
            return PRESETS[name]
        parts = [preset for preset in PRESETS if name and name.lower() in preset]
        close = parts or difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ProblemError(f"preset={name!r}: not known; {hint}presets: {', '.join(PRESETS)}")


KEY_FIELDS = tuple(sorted(f.name for f in dataclasses.fields(Problem) if f.compare))


def _check_choice(field: str, value: object, allowed: Iterable[str]) -> None:
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise ProblemError(f"{field}={shown(value)}: not known; use one of {', '.join(names)}")


def _check_flag(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ProblemError(f"{field}={shown(value)}: must be True or False; give one of them")


def _check_known(names: Iterable[str], known: Iterable[str]) -> None:
    fields = tuple(known)
    unknown = sorted(map(str, set(names) - set(fields)))
    if unknown:
        raise ProblemError(f"{', '.join(unknown)}: no field of a Problem; use {', '.join(fields)}")


def _integer(field: str, value: Any, least: int, mend: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise ProblemError(f"{field}={shown(value)}: must be a whole number; {mend}") from None
    if isinstance(value, bool):
        raise ProblemError(f"{field}={value!r}: must be a whole number; {mend}")
    if number > _MOST:
        raise ProblemError(f"{field}={shown(number)}: is more than any layer has; {mend}")
    if number < least:
        raise ProblemError(f"{field}={number}: must be at least {least}; {mend}")
    return number


def _positive(field: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ProblemError(f"{field}={shown(value)}: must be a number; give one above 0")
    if isinstance(value, int) and abs(value) > _MOST:
        raise ProblemError(f"{field}={shown(value)}: is more than any layer has; give its own")
    if not (math.isfinite(value) and value > 0):
        raise ProblemError(f"{field}={value!r}: must be finite and above 0; give such a number")
    return float(value)


def _check_routing(p: Problem) -> None:
    """Refuse sizes and routing options that do not fit together; the first rule broken speaks."""
    grouped = p.num_groups > 1
    kept = p.num_experts // p.num_groups * p.top_groups
    softmaxed = p.score == "topk_softmax"
    many = p.top_k > p.num_experts
    uneven = p.num_experts % p.num_groups != 0
    wide = p.top_groups > p.num_groups
    few = f"only {kept} experts are in top_groups={p.top_groups} groups; keep more groups"
    rules = (
        (many, "top_k", f"must be at most num_experts={p.num_experts}; choose fewer"),
        (grouped and p.score != "sigmoid", "num_groups", f"score={p.score} has no groups; use 1"),
        (uneven, "num_groups", f"must divide num_experts={p.num_experts}; use a divisor"),
        (wide, "top_groups", f"must be at most num_groups={p.num_groups}; keep fewer groups"),
        (p.top_k > kept, "top_k", few),
        (softmaxed and not p.renormalize, "renormalize", "topk_softmax sums to 1; use True"),
        (softmaxed and p.correction_bias, "correction_bias", "topk_softmax has none; use False"),
    )
    for broken, field, rule in rules:
        if broken:
            raise ProblemError(f"{field}={getattr(p, field)}: {rule}")


def _notes(p: Problem) -> list[str]:
    notes = (
        (not p.renormalize, "not renormalised"),
        (p.routing_scale != 1.0, f"weights x {p.routing_scale:g}"),
        (p.num_groups > 1, f"{p.top_groups} of {p.num_groups} groups"),
        (p.router_bias, "router bias"),
        (p.correction_bias, "correction bias"),
        (p.expert_bias, "expert biases"),
        (p.shared_dim > 0, f"shared Fs={p.shared_dim}"),
    )
    return [note for holds, note in notes if holds]


PRESETS: dict[str, Problem] = {
    name: Problem(**fields, name=name) for name, fields in FIELDS.items()
}
