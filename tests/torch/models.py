"""Small random transformers models of every type that tuner.torch knows, and layers without a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner.measure import reference
from tuner.problem import Problem
from tuner.problem.weights import Weights

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tuner.torch import LAYOUTS, MoELayer  # noqa: E402 - they need torch

# Weights so large that the MoE layers, not the residual stream, make the logits.
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4},
    # With these sizes it is Mixtral's problem: the two share a kernel.
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 48, "norm_topk_prob": True},
    "granitemoe": {"num_local_experts": 4},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 16},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "n_group": 4,
        "topk_group": 2,
        "moe_intermediate_size": 48,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
    },
}
IDS = torch.randint(2, 96, (2, 7), generator=torch.Generator().manual_seed(0))


def small_model(family: str) -> Any:
    """A random model in float32; its biases are random, too."""
    torch.manual_seed(0)
    kwargs = {**SIZES, **FAMILIES[family], "num_key_value_heads": 4}
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(family, **kwargs)
    )
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "bias" in name:
                tensor.normal_(0, 0.3)
    return model.eval()


def blocks(model: Any) -> list[Any]:
    names = LAYOUTS[model.config.model_type].names
    return [
        module
        for module in model.modules()
        if {n for n, _ in (*module.named_parameters(), *module.named_buffers())} == names
        and not isinstance(module, MoELayer)
    ]


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(IDS).logits.float()


class FormulaLayer:
    """What `load` gives, without a kernel: the float64 reference on a copy of the weights."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        checked = weights.check(problem)
        copies = {name: np.array(a) for name, a in vars(checked).items() if a is not None}
        self.problem, self.weights = problem, Weights(**copies)

    def __call__(self, x: Any, return_routing: bool = False) -> Any:
        floats = x.detach().float().numpy()
        indices, weights, _ = reference.route(self.problem, self.weights, floats)
        y = torch.from_numpy(reference.moe(self.problem, self.weights, floats)).to(x.dtype)
        if not return_routing:
            return y
        return y, torch.from_numpy(indices), torch.from_numpy(weights).float()


def formula(problem: Problem, weights: Weights) -> Any:
    """A loader that a pickle can name."""
    return FormulaLayer(problem, weights)
