"""Presets: the fields of well-known models' layers, by name; ``tuner.problem.PRESETS`` has their Problems."""

from __future__ import annotations

from typing import Any


def _sizes(hidden: int, expert_dim: int, num_experts: int, top_k: int) -> dict[str, Any]:
    return {
        "hidden": hidden,
        "expert_dim": expert_dim,
        "num_experts": num_experts,
        "top_k": top_k,
    }


# Sizes are D, F, E, k, from the published config.json of each model.
FIELDS: dict[str, dict[str, Any]] = {
    "granite-3.0-1b-a400m": _sizes(1024, 512, 32, 8) | {"score": "topk_softmax"},
    "olmoe-1b-7b": _sizes(2048, 1024, 64, 8) | {"renormalize": False},
    "qwen3-30b-a3b": _sizes(2048, 768, 128, 8),
    "mixtral-8x7b": _sizes(4096, 14336, 8, 2),
    "gpt-oss-20b": _sizes(2880, 2880, 32, 4)
    | {
        "activation": "swiglu_clamped",
        "expert_bias": True,
        "score": "topk_softmax",
        "router_bias": True,
    },
    "deepseek-v3": _sizes(7168, 2048, 256, 8)
    | {
        "score": "sigmoid",
        "routing_scale": 2.5,
        "num_groups": 8,
        "top_groups": 4,
        "correction_bias": True,
        "shared_dim": 2048,
    },
    "classic-moe": _sizes(256, 1024, 4, 2) | {"activation": "relu", "expert_bias": True},
}
