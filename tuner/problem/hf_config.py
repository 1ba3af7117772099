"""Reads the MoE part of a Hugging Face ``config.json`` into the fields of a Problem; never guesses.

One table, model_type -> reader. A reader names the fields that its model's transformers class
reads, and takes a default only where that class has it and the model's arithmetic depends on it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import JsonError, ProblemError
from tuner.host import json_text
from tuner.host.arguments import require_path
from tuner.problem.forms import SWIGLU_ALPHA, SWIGLU_LIMIT

# Names of transformers.activations.ACT2FN to ours.
ACTIVATION_OF = {"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"}
_MOST_BYTES = 16 << 20
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


@dataclass(frozen=True)
class _ConfigFile:
    """A parsed config whose typed getters name the file and the field when they fail."""

    source: str
    values: Mapping[str, Any]

    def get(self, kind: type, *names: str, default: Any = None) -> Any:
        """Value of the first of these names that is there; others must agree with it."""
        found = {name: self.values[name] for name in names if name in self.values}
        if not found and default is None:
            raise self.error(f"lacks {names[0]}; give the complete config.json of the model")
        for name, value in found.items():
            if not _is_kind(value, kind):
                raise self.error(f"{name}={value!r}: must be {_KINDS[kind]}; mend the file")
        if len(set(found.values())) > 1:
            both = " and ".join(f"{name}={value}" for name, value in found.items())
            raise self.error(f"{both} contradict each other; keep one")
        return next(iter(found.values()), default)

    def integer(self, *names: str) -> int:
        return int(self.get(int, *names))

    def activation(self) -> str:
        act = self.get(str, "hidden_act")
        if act not in ACTIVATION_OF:
            known = ", ".join(ACTIVATION_OF)
            raise self.error(f"hidden_act={act!r}: not known; this moetune knows {known}")
        return ACTIVATION_OF[act]

    def only(self, field: str, value: str) -> None:
        """Refuse a routing form other than the one that this model type is known to use."""
        given = self.get(str, field, default=value)
        if given != value:
            raise self.error(f"{field}={given!r}: not supported; this moetune knows {value}")

    def error(self, message: str) -> ProblemError:
        return ProblemError(f"{self.source}: {message}")


def _is_kind(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def _sizes(config: _ConfigFile, width: str, *experts: str) -> dict[str, Any]:
    return {
        "hidden": config.integer("hidden_size"),
        "expert_dim": config.integer(width),
        "num_experts": config.integer(*experts),
        "top_k": config.integer("num_experts_per_tok"),
        "activation": config.activation(),
    }


def _granite(config: _ConfigFile) -> dict[str, Any]:
    """GraniteMoeTopKGating: softmax over the k chosen logits."""
    return {**_sizes(config, "intermediate_size", "num_local_experts"), "score": "topk_softmax"}


def _olmoe(config: _ConfigFile) -> dict[str, Any]:
    """OlmoeConfig: intermediate_size is one expert's width, norm_topk_prob is False unless said."""
    norm = config.get(bool, "norm_topk_prob", default=False)
    sizes = _sizes(config, "intermediate_size", "num_experts", "num_local_experts")
    return {**sizes, "renormalize": norm}


def _qwen3(config: _ConfigFile) -> dict[str, Any]:
    """Qwen3MoeConfig: intermediate_size is the dense layers'; norm_topk_prob False unless said."""
    norm = config.get(bool, "norm_topk_prob", default=False)
    sizes = _sizes(config, "moe_intermediate_size", "num_experts", "num_local_experts")
    return {**sizes, "renormalize": norm}


def _mixtral(config: _ConfigFile) -> dict[str, Any]:
    """MixtralSparseMoeBlock: softmax over all, top-k, renormalised, without an option."""
    return _sizes(config, "intermediate_size", "num_local_experts", "num_experts")


def _gpt_oss(config: _ConfigFile) -> dict[str, Any]:
    """GptOssTopKRouter and GptOssExperts: biases everywhere; limit and alpha are constants there.

    Checkpoints carry ``swiglu_limit`` only, so the class's own values stand in where one lacks.
    """
    config.only("hidden_act", "silu")
    return {
        **_sizes(config, "intermediate_size", "num_local_experts", "num_experts"),
        "top_k": config.integer("num_experts_per_tok", "experts_per_token"),
        "activation": "swiglu_clamped",
        "swiglu_limit": config.get(float, "swiglu_limit", default=SWIGLU_LIMIT),
        "swiglu_alpha": config.get(float, "swiglu_alpha", default=SWIGLU_ALPHA),
        "expert_bias": True,
        "router_bias": True,
        "score": "topk_softmax",
    }


def _deepseek_v3(config: _ConfigFile) -> dict[str, Any]:
    """DeepseekV3MoE: sigmoid scores, bias-corrected choice in groups, one wide shared expert.

    scoring_func and topk_method are written by the original checkpoints only: the transformers
    class knows one form of each, so their absence means that form.
    """
    config.only("scoring_func", "sigmoid")
    config.only("topk_method", "noaux_tc")
    sizes = _sizes(config, "moe_intermediate_size", "n_routed_experts", "num_local_experts")
    return {
        **sizes,
        "score": "sigmoid",
        "correction_bias": True,
        "renormalize": config.get(bool, "norm_topk_prob"),
        "routing_scale": config.get(float, "routed_scaling_factor"),
        "num_groups": config.integer("n_group"),
        "top_groups": config.integer("topk_group"),
        "shared_dim": config.integer("n_shared_experts") * sizes["expert_dim"],
    }


READERS: dict[str, Callable[[_ConfigFile], dict[str, Any]]] = {
    "granitemoe": _granite,
    "olmoe": _olmoe,
    "qwen3_moe": _qwen3,
    "mixtral": _mixtral,
    "gpt_oss": _gpt_oss,
    "deepseek_v3": _deepseek_v3,
}


def read_hf_config(
    source: str | os.PathLike[str] | Mapping[str, Any],
) -> tuple[dict[str, Any], str, str]:
    """The fields that a config decides, its label, and how messages name it.

    `source` is a path, a folder that holds config.json, or a parsed object. The label is the file's stem
    (the folder's name for a plain config.json), or the model_type of an object.

    Raises:
        ProblemError: missing, not JSON, not an object, lacks a field, or a model_type or a form that
            is not known (the message lists the known ones).
    """
    config, name = _load(source)
    model_type = config.get(str, "model_type")
    if model_type not in READERS:
        known = ", ".join(sorted(READERS))
        raise config.error(f"model_type={model_type!r}: not known; this moetune knows {known}")
    return READERS[model_type](config), name or model_type, config.source


def _load(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[_ConfigFile, str]:
    if isinstance(source, Mapping):
        return _ConfigFile("config", source), ""
    require_path("config", source, Mapping)
    path = Path(source)
    if path.is_dir():
        path = path / "config.json"
    values = _parse(path)
    if not isinstance(values, dict):
        raise ProblemError(
            f"{path}: holds a JSON {type(values).__name__}, must be an object; "
            "give the config.json of a model"
        )
    stem = path.name.removesuffix(".json").removesuffix(".config")
    return _ConfigFile(str(path), values), path.resolve().parent.name if stem == "config" else stem


def _parse(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ProblemError(
            f"{path}: no such file; give a preset's name or the path of a model's config.json"
        ) from None
    except OSError as error:
        raise ProblemError(
            f"{path}: cannot be read ({error.strerror}); give a readable config.json"
        ) from None
    except ValueError as error:  # a NUL in it
        raise ProblemError(f"{str(path)!r}: cannot be read ({error}); give a config.json") from None
    if len(text) > _MOST_BYTES:
        raise ProblemError(
            f"{path}: has more than {_MOST_BYTES >> 20} MiB, which no config.json has"
        )
    try:
        return json_text.parse(text)
    except JsonError as error:
        raise ProblemError(f"{path}: not JSON ({error}); download config.json again") from None
