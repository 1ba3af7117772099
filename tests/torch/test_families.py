"""tuner.torch: the blocks of small random transformers models, replaced; logits and greedy text agree."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tuner.errors import UsageError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.torch.models import FAMILIES, IDS, blocks, logits, small_model  # noqa: E402 - they need torch
from tuner.torch import MoELayer, replace  # noqa: E402

SLOW = ("olmoe", "granitemoe")  # the layout of Mixtral with another routing: a kernel each
# Two float32 evaluations err by about sqrt(64) 2^-24 a product, 5e-7 of its size; two layers, norms and
# the last product make at most 20 times that. Measured on six families: 1.3e-6.
BOUND = 1e-5


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


def test_the_package_imports_no_torch() -> None:
    code = "import sys, tuner; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
