"""tuner.torch: the blocks of small random transformers models, replaced; logits and greedy text agree."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.kernels import TINY
from tuner.errors import UsageError, WeightsError
from tuner.problem import Problem
from tuner.problem.weights import Weights, array_shapes

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tuner.torch import LAYOUTS, MoELayer, replace  # noqa: E402 - they need torch

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
SLOW = ("olmoe", "granitemoe")  # the layout of Mixtral with another routing: a kernel each
IDS = torch.randint(2, 96, (2, 7), generator=torch.Generator().manual_seed(0))
# Two float32 evaluations err by about sqrt(64) 2^-24 a product, 5e-7 of its size; two layers, norms and
# the last product make at most 20 times that. Measured on six families: 1.3e-6.
BOUND = 1e-5


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
    ]


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(IDS).logits.float()


def greedy(model: Any) -> Any:
    return model.generate(IDS, max_new_tokens=8, do_sample=False)


def without_experts(model: Any) -> Any:
    """The logits with every down projection at zero."""
    kept = [block.experts.down_proj.detach().clone() for block in blocks(model)]
    with torch.no_grad():
        for block in blocks(model):
            block.experts.down_proj.zero_()
        answer = logits(model)
        for block, down in zip(blocks(model), kept, strict=True):
            block.experts.down_proj.copy_(down)
    return answer


@pytest.mark.compiler
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if f in SLOW else []) for f in FAMILIES],
)
def test_a_model_with_replaced_blocks_says_the_same(family: str) -> None:
    model = small_model(family)
    right, text = logits(model), greedy(model)
    limit = BOUND * right.abs().max()
    assert (without_experts(model) - right).abs().max() > 1000 * limit  # or nothing would be tested
    found = len(blocks(model))
    assert found == (1 if family == "deepseek_v3" else 2)
    assert len(replace(model)) == found
    assert blocks(model) == []
    assert (logits(model) - right).abs().max() < limit
    assert torch.equal(greedy(model), text)


@pytest.mark.compiler
@pytest.mark.slow
def test_bfloat16_is_no_further_from_float32_than_the_blocks_own() -> None:
    model = small_model("mixtral")
    right = logits(model)
    model = model.to(torch.bfloat16)
    theirs = (logits(model) - right).abs().mean()
    replace(model)
    assert (logits(model) - right).abs().mean() < 1.1 * theirs


@pytest.mark.compiler
def test_a_block_of_gpt_oss_returns_its_scores() -> None:
    model = small_model("gpt_oss")
    (block, *_) = blocks(model)
    layer = MoELayer.from_block(block, model.config)
    x = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        (right, scores), (y, chosen) = block(x), layer(x)
    assert (y.shape, chosen.shape) == ((2, 3, 64), (6, 2))
    torch.testing.assert_close(y, right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))
    torch.testing.assert_close(chosen, scores)
    with pytest.raises(UsageError, match="forward only"):
        layer(x.requires_grad_())[0].sum().backward()


class Recorder:
    """Takes what `load` would get; no kernel."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        self.problem, self.weights = problem, weights


@pytest.mark.parametrize("family", FAMILIES)
def test_every_array_of_the_problem_is_found(family: str) -> None:
    model = small_model(family)
    (block, *_) = blocks(model)
    layer: Any = MoELayer.from_block(block, model.config, Recorder).layer
    weights = layer.weights.check(layer.problem)
    assert {n for n, a in vars(weights).items() if a is not None} == set(
        array_shapes(layer.problem)
    )
    assert (layer.problem.hidden, layer.problem.expert_dim) == (64, 48)
    fused = block.experts.gate_up_proj.detach().numpy()
    shared = [np.shares_memory(a, fused) for a in (weights.gate, weights.up)]
    assert shared == [family != "gpt_oss"] * 2  # its columns take turns: they are copied


def test_a_block_of_another_make_is_refused() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    block.gate.register_parameter("bias", torch.nn.Parameter(torch.zeros(4)))
    with pytest.raises(WeightsError, match=r"lacks or should not have gate\.bias; a mixtral block"):
        MoELayer.from_block(block, model.config)
    for other in blocks(model):
        other.gate.register_parameter("bias", torch.nn.Parameter(torch.zeros(4)))
    with pytest.raises(UsageError, match="no MoE block is found in this mixtral model"):
        replace(model)


def test_a_block_that_is_elsewhere_is_refused() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    with pytest.raises(
        UsageError, match=r"^gate\.weight: is on meta, must be on the CPU; move the"
    ):
        MoELayer.from_block(block.to("meta"), model.config)
    layer: Any = MoELayer(Recorder(TINY, Weights.random(TINY, 0)))
    with pytest.raises(UsageError, match=r"^hidden_states: is on meta, must be on the CPU"):
        layer(torch.zeros(1, 1, 48, device="meta"))


def test_a_model_type_without_a_layout_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^model_type='llama': no layout .* deepseek_v3, gpt_oss"):
        MoELayer.from_block(torch.nn.Identity(), {"model_type": "llama"})


def test_the_package_imports_no_torch() -> None:
    code = "import sys, tuner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
