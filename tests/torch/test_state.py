"""Models with replaced blocks are saved, copied, pickled and changed as if they had their own."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import WeightsError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.torch.models import FAMILIES, IDS, formula, logits, small_model  # noqa: E402 - they need torch
from tuner.torch import MoELayer, replace, restore  # noqa: E402

ROOT = Path(__file__).parents[2]


def replaced(family: str = "mixtral") -> Any:
    model = small_model(family)
    replace(model, formula)
    return model


def close(answer: Any, right: Any) -> bool:
    return bool((answer - right).abs().max() < 1e-5 * right.abs().max())


def through_torch(model: Any) -> Any:
    memory = io.BytesIO()
    torch.save(model, memory)
    memory.seek(0)
    return torch.load(memory, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_torch,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_checkpoint_is_the_originals(family: str, tmp_path: Path) -> None:
    model = small_model(family)
    right, state = logits(model), {n: t.clone() for n, t in model.state_dict().items()}
    model.save_pretrained(tmp_path / "before")
    replace(model, formula)
    logits(model)
    model.save_pretrained(tmp_path / "after")
    files = {path.name for path in (tmp_path / "before").iterdir()}
    assert "model.safetensors" in files
    assert files == {path.name for path in (tmp_path / "after").iterdir()}
    for name in files:
        written = (tmp_path / "after" / name).read_bytes()
        assert written == (tmp_path / "before" / name).read_bytes(), name
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "after").eval()
    assert torch.equal(logits(again), right)


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_a_copy_says_the_same(family: str, way: str) -> None:
    model = replaced(family)
    right = logits(model)
    copied = COPIES[way](model)
    assert torch.equal(logits(copied), right)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), right)  # the copy's tensors are its own
    restore(copied)
    assert not any(isinstance(module, MoELayer) for module in copied.modules())


@pytest.mark.compiler
def test_a_model_is_copied_and_pickled_after_a_call_of_its_kernels() -> None:
    model = small_model("mixtral")
    replace(model)
    right = logits(model)
    for copied in (way(model) for way in COPIES.values()):
        assert torch.equal(logits(copied), right)


def test_a_pickle_is_read_in_another_process(tmp_path: Path) -> None:
    model = replaced()
    torch.save((model, IDS, logits(model)), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "model, ids, right = torch.load(sys.argv[1], weights_only=False)\n"
        "with torch.no_grad():\n"
        "    assert torch.equal(model(ids).logits, right)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True, cwd=ROOT)


def test_a_loaded_state_is_what_runs() -> None:
    """Packed copies of what the tensors were would answer, and nobody would notice."""
    model, other = replaced(), small_model("mixtral")
    logits(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(0, 0.3)
    model.load_state_dict(other.state_dict())
    assert close(logits(model), logits(other))


EDITS: dict[str, Callable[[Any], Any]] = {
    "in place": lambda block: block.experts.down_proj.mul_(2),
    "one number": lambda block: block.experts.down_proj[0].neg_(),
    "the router": lambda block: block.gate.weight.neg_(),
    "another parameter": lambda block: setattr(
        block.experts, "down_proj", torch.nn.Parameter(block.experts.down_proj * 2)
    ),
    "another module": lambda block: (
        setattr(block, "gate", copy.deepcopy(block.gate).requires_grad_())
        or block.gate.weight.neg_()
    ),
    "its data": lambda block: setattr(block.experts.down_proj, "data", block.experts.down_proj * 2),
    "the view of its data": lambda block: setattr(
        block.experts.gate_up_proj, "data", block.experts.gate_up_proj.data.flip(1)
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_block_that_was_changed_is_what_runs(edit: str) -> None:
    model, other = replaced(), small_model("mixtral")
    before = logits(model)
    with torch.no_grad():
        for changed in (model, other):
            EDITS[edit](changed.model.layers[1].mlp)
    right = logits(other)
    assert not close(before, right)
    assert close(logits(model), right)


def test_a_change_that_is_refused_names_the_block() -> None:
    model = replaced()
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[0, 0, 0] = float("inf")
    with pytest.raises(WeightsError, match=r"^model\.layers\.1\.mlp: down: expert 0 holds 1 NaN"):
        logits(model)


def test_a_model_that_is_cast_runs_in_the_new_type() -> None:
    model = replaced()
    right = logits(model)
    model.to(torch.bfloat16)
    layer = model.model.layers[0].mlp
    assert logits(model).isfinite().all()
    assert layer.problem.dtype == layer.problem.weight_dtype == "bfloat16"
    assert layer.experts.down_proj.dtype is torch.bfloat16
    assert (logits(model) - right).abs().max() < 0.1 * right.abs().max()


def test_nothing_is_packed_again_that_did_not_change() -> None:
    model = replaced()
    layer = model.model.layers[0].mlp
    logits(model)
    held = layer.layer
    logits(model)
    assert layer.layer is held


def test_a_model_that_was_loaded_in_inference_mode_runs() -> None:
    with torch.inference_mode():
        model = replaced()
        assert close(model(IDS).logits, logits(small_model("mixtral")))
