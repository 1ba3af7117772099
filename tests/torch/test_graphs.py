"""torch.compile, torch.export, traces and recorded router logits of models with replaced blocks."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import UsageError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.torch.models import FAMILIES, IDS, formula, logits, small_model  # noqa: E402 - they need torch
from tuner.torch import packed_block, replace, restore  # noqa: E402

SAME = ("olmoe", "qwen3_moe", "granitemoe")  # as Mixtral's blocks, but for the routing
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def pair(family: str = "mixtral") -> tuple[Any, Any]:
    """A model, and its logits before its blocks were replaced."""
    model = small_model(family)
    right = logits(model)
    replace(model, formula)
    return model, right


def close(answer: Any, right: Any) -> bool:
    return bool((answer - right).abs().max() < 1e-5 * right.abs().max())


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if f in SAME else []) for f in FAMILIES],
)
def test_a_compiled_model_says_the_same(family: str) -> None:
    model, right = pair(family)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert close(compiled(IDS, use_cache=False).logits, right)
        assert close(compiled(IDS[:, :5], use_cache=False).logits, right[:, :5])


@pytest.mark.compiler
@pytest.mark.slow
def test_inductor_compiles_a_model_with_its_kernels() -> None:
    model = small_model("mixtral")
    right = logits(model)
    replace(model)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        assert close(compiled(IDS, use_cache=False).logits, right)


def test_a_compiled_model_follows_its_weights() -> None:
    model, right = pair()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        compiled(IDS, use_cache=False)
        model.model.layers[1].mlp.experts.down_proj.neg_()
        answer = compiled(IDS, use_cache=False).logits
    assert not close(answer, right)
    restore(model)
    assert close(answer, logits(model))


def test_a_compiled_model_is_trained_as_little_as_others() -> None:
    model, right = pair()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    answer = compiled(IDS, use_cache=False).logits
    assert close(answer.detach(), right)
    with pytest.raises(UsageError, match="runs forward only; train the model with its own blocks"):
        answer.sum().backward()


@pytest.mark.parametrize("frozen", ["tokens", "experts", "nothing"])
def test_a_gradient_is_never_left_out(frozen: str) -> None:
    """Parameters that are in the model but never learn would be the worst of answers."""
    model, _ = pair()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            {"tokens": ".mlp." in name, "experts": ".mlp." not in name, "nothing": True}[frozen]
        )
    with pytest.raises(UsageError, match="runs forward only; train the model with its own blocks"):
        model(IDS).logits.sum().backward()


def exported(model: Any, strict: bool = False) -> Any:
    keywords = {"use_cache": False, "return_dict": False}
    return torch.export.export(model, (IDS,), keywords, strict=strict)


@pytest.mark.filterwarnings("ignore:While compiling")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_an_exported_model_says_the_same(family: str, strict: bool) -> None:
    model, right = pair(family)
    with torch.no_grad():
        program = exported(model, strict)
        answer = program.module()(IDS, use_cache=False, return_dict=False)[0]
    assert close(answer, right)
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("moetune.moe_block.default") == (1 if family == "deepseek_v3" else 2)
    assert set(program.state_dict) == set(model.state_dict())


LOADED = """
import sys, torch, tuner.torch
from tuner.errors import UsageError
from tuner.torch import packed_block
program = torch.export.load(sys.argv[1]).module()
ids, right = torch.load(sys.argv[2])
with torch.no_grad():
    for _ in range(2):
        try:
            answer = program(ids, use_cache=False, return_dict=False)[0]
        except UsageError as error:
            sys.exit(str(error))
        assert (answer - right).abs().max() < 1e-5 * right.abs().max()
assert len(packed_block._of_graphs) == 2
"""


def in_another_process(model: Any, right: Any, folder: Path) -> str:
    with torch.no_grad():
        torch.export.save(exported(model), folder / "program.pt2")
    torch.save((IDS, right), folder / "right.pt")
    words = [sys.executable, "-c", LOADED, folder / "program.pt2", folder / "right.pt"]
    return subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, text=True).stderr


@pytest.mark.compiler
def test_an_exported_model_runs_in_another_process(tmp_path: Path) -> None:
    model = small_model("mixtral")
    right = logits(model)
    replace(model)
    assert "Error" not in in_another_process(model, right, tmp_path)


def test_a_loader_of_another_process_is_told(tmp_path: Path) -> None:
    said = in_another_process(*pair(), tmp_path)
    assert "load=formula: is of another process; export a model that was replaced" in said


def test_what_a_graph_packed_goes_with_its_tensors() -> None:
    model, right = pair()
    with torch.no_grad():
        program = exported(model)
        memory = io.BytesIO()
        torch.export.save(program, memory)
        memory.seek(0)
        loaded = torch.export.load(memory).module()
        count = len(packed_block._of_graphs)
        assert close(loaded(IDS, use_cache=False, return_dict=False)[0], right)
    assert len(packed_block._of_graphs) == count + 2
    del loaded, program
    gc.collect()
    packed_block.forget(set())
    assert len(packed_block._of_graphs) <= count


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trace_says_the_same_of_other_tokens() -> None:
    model, _ = pair()
    layer = model.model.layers[0].mlp
    x, other = torch.randn(2, 1, 5, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
        assert torch.equal(traced(other), layer(other))


@pytest.mark.parametrize("family", FAMILIES)
def test_router_logits_are_recorded(family: str) -> None:
    model = small_model(family)
    with torch.no_grad():
        right = model(IDS, output_router_logits=True)
        replace(model, formula)
        answer = model(IDS, output_router_logits=True)
        fresh = small_model(family)  # whose hooks are installed after the replacing
        replace(fresh, formula)
        later = fresh(IDS, output_router_logits=True)
    assert len(right.router_logits) == (1 if family == "deepseek_v3" else 2)
    for found in (answer.router_logits, later.router_logits):
        torch.testing.assert_close(found, right.router_logits, rtol=1e-4, atol=1e-4)
    if getattr(right, "aux_loss", None) is not None:
        torch.testing.assert_close(answer.aux_loss, right.aux_loss)


def test_router_logits_are_recorded_when_compiled() -> None:
    model, _ = pair()
    with torch.no_grad():
        right = model(IDS, output_router_logits=True).router_logits
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        answer = compiled(IDS, output_router_logits=True, use_cache=False).router_logits
    torch.testing.assert_close(answer, right)
