"""replace is all or nothing and names the block; restore undoes it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tuner
from tests import shipped
from tuner.errors import CompileError, UsageError, WeightsError
from tuner.host.process import Completed
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.runtime.tuning_layer import Asked

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.torch.models import FAMILIES, blocks, formula, logits, small_model  # noqa: E402 - they need torch
from tuner.torch import MoELayer, replace, restore  # noqa: E402


def modules(model: Any) -> dict[str, Any]:
    return dict(model.named_modules(remove_duplicate=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_restore_undoes_it(family: str) -> None:
    model = small_model(family)
    before, right = modules(model), logits(model)
    places = replace(model, formula)
    assert places == restore(model)
    assert modules(model) == before
    assert torch.equal(logits(model), right)
    assert restore(model) == []


def test_a_mode_that_was_set_meanwhile_stays() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    replace(model, formula)
    model.train()
    restore(model)
    assert block.training
    assert all(module.training for module in block.modules())


def test_replacing_changes_the_mode_of_no_module() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    block.gate.train()
    replace(model, formula)
    assert [block.training, block.gate.training, block.experts.training] == [False, True, False]


def test_weights_that_are_refused_leave_every_block() -> None:
    model = small_model("mixtral")
    before = modules(model)
    (_, last) = blocks(model)
    with torch.no_grad():
        last.experts.down_proj[1, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"^model\.layers\.1\.mlp: down: expert 1 holds 1 NaN"):
        replace(model, formula)
    assert modules(model) == before


@pytest.mark.parametrize(
    "error", [CompileError("no compiler"), OSError("disk"), KeyboardInterrupt()]
)
def test_a_loader_that_fails_leaves_every_block(error: BaseException) -> None:
    model = small_model("mixtral")
    before, calls = modules(model), []

    def load(problem: Problem, weights: Weights) -> Any:
        calls.append(problem)
        if len(calls) == 2:
            raise error
        return formula(problem, weights)

    with pytest.raises(type(error)) as told:
        replace(model, load)
    if isinstance(error, Exception):
        said = [str(told.value), *getattr(told.value, "__notes__", [])]
        assert any("model.layers.1.mlp" in line for line in said)
    assert modules(model) == before


def test_an_interrupt_between_two_blocks_leaves_every_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model("mixtral")
    before, put = modules(model), model.set_submodule

    def interrupted(place: str, module: Any) -> None:
        if place == "model.layers.1.mlp" and isinstance(module, MoELayer):
            raise KeyboardInterrupt
        put(place, module)

    model.set_submodule = interrupted
    with pytest.raises(KeyboardInterrupt):
        replace(model, formula)
    assert modules(model) == before


def test_a_block_in_two_places_is_replaced_in_both() -> None:
    model = small_model("mixtral")
    model.model.layers[1].mlp = model.model.layers[0].mlp
    before, right = modules(model), logits(model)
    assert replace(model, formula) == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert model.model.layers[0].mlp is model.model.layers[1].mlp
    assert (logits(model) - right).abs().max() < 1e-5 * right.abs().max()
    restore(model)
    assert modules(model) == before


def test_a_model_that_is_replaced_already_is_refused() -> None:
    model = small_model("mixtral")
    replace(model, formula)
    with pytest.raises(
        UsageError, match=r"its 2 MoE blocks are replaced already; call tuner\.torch"
    ):
        replace(model, formula)
    (first, second) = (layer.mlp for layer in model.model.layers)
    model.set_submodule("model.layers.0.mlp", first.block)
    assert replace(model, formula) == ["model.layers.0.mlp"]
    assert model.model.layers[1].mlp is second


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^model: is None, must be a Module; give a transformers"):
        replace(None)
    with pytest.raises(
        UsageError, match=r"^model: Linear has no config; give a transformers model"
    ):
        replace(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match=r"^model: is None, must be a Module"):
        restore(None)


def test_other_arguments_of_another_kind_are_told_by_name() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    with pytest.raises(UsageError, match=r"^load: is None, must be a function of a Problem"):
        replace(model, None)
    with pytest.raises(UsageError, match=r"^config: is None, must be a Mapping; give that of the"):
        MoELayer.from_block(block, None)
    with pytest.raises(UsageError, match=r"^block: is 3, must be a Module"):
        MoELayer.from_block(3, model.config)


def test_hooks_of_a_block_are_called_and_stay_with_it() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    seen: list[str] = []
    first = block.register_forward_hook(lambda *_: seen.append("before"))
    replace(model, formula)
    model.model.layers[0].mlp.register_forward_hook(lambda *_: seen.append("meanwhile"))
    logits(model)
    assert seen == ["before", "meanwhile"]
    restore(model)
    first.remove()
    logits(model)
    assert seen == ["before", "meanwhile", "meanwhile"]


def test_a_module_that_was_put_in_meanwhile_stays() -> None:
    model = small_model("mixtral")
    (block, *_) = blocks(model)
    replace(model, formula)
    gate = model.model.layers[0].mlp.gate = copy.deepcopy(block.gate)
    restore(model)
    assert block.gate is gate


@pytest.mark.compiler
def test_a_model_whose_layers_tune_themselves_tunes_once(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layers of a model are of one problem; here the session records that nothing beats the default."""
    begun: list[list[int]] = []

    def session(asked: Asked, counts: Sequence[int]) -> Completed:
        begun.append(list(counts))
        monkeypatch.setattr(shipped, "TUNED", tuple(counts))
        shipped.record(asked.db, problem=asked.problem)
        return Completed(0, "", "", 1.0, False)

    monkeypatch.setattr(Asked, "session", session)
    model = small_model("mixtral")
    right = logits(model)
    replace(model, lambda problem, weights: tuner.load(problem, weights, tune="first-use"))
    for _ in range(2):
        torch.testing.assert_close(logits(model), right, rtol=1e-4, atol=1e-4)
    assert len(begun) == 1
