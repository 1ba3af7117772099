"""What is read from a block: its arrays, and what it computes, whatever the config says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tuner.errors import ProblemError, UsageError, WeightsError
from tuner.problem import Problem
from tuner.problem.weights import Weights, array_shapes

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.torch.models import FAMILIES, blocks, formula, small_model  # noqa: E402 - they need torch
from tuner.torch import LAYOUTS, MoELayer, replace  # noqa: E402
from tuner.torch.activations import activation_of  # noqa: E402


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
    layer = MoELayer.from_block(block, model.config, formula)
    with pytest.raises(UsageError, match=r"^hidden_states: is on meta, must be on the CPU"):
        layer(torch.zeros(1, 1, 64, device="meta"))
    with pytest.raises(UsageError, match=r"^hidden_states: is torch.sparse_coo, must be dense"):
        layer(torch.zeros(1, 1, 64).to_sparse())
    with pytest.raises(UsageError, match=r"\w+: is on meta, must be on the CPU; move the"):
        MoELayer.from_block(block.to("meta"), model.config)


def test_a_model_type_without_a_layout_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^model_type='llama': no layout .* deepseek_v3, gpt_oss"):
        MoELayer.from_block(torch.nn.Identity(), {"model_type": "llama"})


def problem_of(block: Any, model: Any) -> Problem:
    return MoELayer.from_block(block, model.config, formula).problem


@pytest.mark.parametrize("family", FAMILIES)
def test_the_block_says_what_its_config_says(family: str) -> None:
    model = small_model(family)
    for block in blocks(model):
        assert problem_of(block, model) == Problem.from_hf_config(model.config.to_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_where_they_differ_the_block_is_right(family: str) -> None:
    """The config of a model is not read when it runs: its blocks were made from it, and changed since."""
    model = small_model(family)
    (block, *_) = blocks(model)
    block.get_submodule(LAYOUTS[family].router).top_k = 1
    x = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(1))
    layer = MoELayer.from_block(block, model.config, formula)
    assert (layer.problem.top_k, model.config.num_experts_per_tok) == (1, 2)
    with torch.no_grad():
        right, answer = block(x), layer(x)
    if LAYOUTS[family].scores:
        right, answer = right[0], answer[0]
    torch.testing.assert_close(answer, right, rtol=1e-5, atol=1e-5 * float(right.abs().max()))


def test_each_attribute_is_read_from_the_block() -> None:
    model = small_model("deepseek_v3")
    (block, *_) = blocks(model)
    gate = block.gate
    gate.norm_topk_prob, gate.routed_scaling_factor = not gate.norm_topk_prob, 3.5
    gate.num_group, gate.topk_group = 2, 1
    before = Problem.from_hf_config(model.config.to_dict())
    assert problem_of(block, model) == before.replace(
        renormalize=not before.renormalize, routing_scale=3.5, num_groups=2, top_groups=1
    )
    model = small_model("gpt_oss")
    (block, *_) = blocks(model)
    block.experts.limit, block.experts.alpha = 5.0, 1.5
    problem = problem_of(block, model)
    assert (problem.swiglu_limit, problem.swiglu_alpha) == (5.0, 1.5)


def test_an_activation_is_told_by_its_answers() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    block.experts.act_fn = torch.nn.GELU(approximate="tanh")
    assert problem_of(block, model).activation == "geglu_tanh"
    assert activation_of(torch.nn.GELU(), "act") == "geglu"
    block.experts.act_fn = torch.nn.ReLU()
    with pytest.raises(ProblemError, match=r"^experts\.act_fn: is ReLU, which no kernel computes"):
        problem_of(block, model)


def test_two_activations_are_refused() -> None:
    model = small_model("deepseek_v3")
    (block, *_) = blocks(model)
    block.shared_experts.act_fn = torch.nn.GELU()
    with pytest.raises(WeightsError, match=r"shared_experts\.act_fn is geglu; a kernel has one"):
        problem_of(block, model)


def test_a_block_without_an_attribute_is_refused() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    del block.gate.top_k
    with pytest.raises(WeightsError, match=r"^MixtralSparseMoeBlock: has no gate\.top_k; give a"):
        problem_of(block, model)


class Quantized(torch.Tensor):
    """A tensor whose memory another package interprets."""


def test_a_tensor_of_another_kind_is_refused() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    down = block.experts.down_proj.detach().as_subclass(Quantized)
    block.experts.down_proj = torch.nn.Parameter(down)
    with pytest.raises(UsageError, match=r"^experts\.down_proj: is a Quantized, must be a plain"):
        problem_of(block, model)
