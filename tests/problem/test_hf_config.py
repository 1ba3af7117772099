"""Reading config.json: what each model type means, and what is refused rather than guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.errors import ProblemError
from tuner.problem import Problem
from tuner.problem.hf_config import READERS

MODELS = Path(__file__).parents[1] / "models"


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A shipped config with some fields changed; None takes a field away."""
    values = {**json.loads((MODELS / f"{name}.config.json").read_text()), **changes}
    return {field: value for field, value in values.items() if value is not None}


def test_shipped_configs_cover_every_reader() -> None:
    types = {json.loads(path.read_text())["model_type"] for path in MODELS.glob("*.json")}
    assert types == set(READERS)


def test_deepseek_is_read_completely() -> None:
    problem = Problem.from_hf_config(
        config("deepseek-v3", n_shared_experts=2, moe_intermediate_size=96)
    )
    assert (problem.expert_dim, problem.shared_dim) == (96, 192)
    assert (problem.score, problem.correction_bias, problem.renormalize) == ("sigmoid", True, True)
    assert (problem.num_groups, problem.top_groups, problem.routing_scale) == (8, 4, 2.5)


def test_gpt_oss_is_read_completely() -> None:
    problem = Problem.from_hf_config(config("gpt-oss-20b", swiglu_limit=5.0))
    assert (problem.activation, problem.swiglu_limit) == ("swiglu_clamped", 5.0)
    assert (problem.swiglu_alpha, problem.score) == (1.702, "topk_softmax")
    assert problem.router_bias
    assert problem.expert_bias


@pytest.mark.parametrize("name", ["olmoe-1b-7b", "qwen3-30b-a3b"])
@pytest.mark.parametrize(("norm", "renormalize"), [(True, True), (False, False), (None, False)])
def test_norm_topk_prob_is_false_unless_said(
    name: str, norm: bool | None, renormalize: bool
) -> None:
    assert Problem.from_hf_config(config(name, norm_topk_prob=norm)).renormalize is renormalize


def test_qwen3_takes_the_experts_width_not_the_dense_one() -> None:
    assert Problem.from_hf_config(config("qwen3-30b-a3b")).expert_dim == 768


@pytest.mark.parametrize(
    ("act", "activation"),
    [("silu", "swiglu"), ("gelu", "geglu"), ("gelu_pytorch_tanh", "geglu_tanh")],
)
def test_hidden_act_names_the_activation(act: str, activation: str) -> None:
    assert Problem.from_hf_config(config("mixtral-8x7b", hidden_act=act)).activation == activation


def test_dtype_is_the_callers_and_weights_follow() -> None:
    problem = Problem.from_hf_config(config("mixtral-8x7b"), dtype="bfloat16")
    assert (problem.dtype, problem.weight_dtype) == ("bfloat16", "bfloat16")


def test_a_model_folder_is_named_by_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("mixtral-8x7b")))
    assert Problem.from_hf_config(folder).name == "my-model"
    assert Problem.from_hf_config(str(folder / "config.json")) == Problem.from_hf_config(folder)


REQUIRED = {
    "granite-3.0-1b-a400m": (
        "model_type hidden_size intermediate_size num_local_experts num_experts_per_tok hidden_act"
    ),
    "olmoe-1b-7b": "hidden_size intermediate_size num_experts num_experts_per_tok hidden_act",
    "qwen3-30b-a3b": "hidden_size moe_intermediate_size num_experts num_experts_per_tok",
    "mixtral-8x7b": "hidden_size intermediate_size num_local_experts num_experts_per_tok",
    "gpt-oss-20b": "hidden_size intermediate_size num_local_experts num_experts_per_tok",
    "deepseek-v3": (
        "hidden_size moe_intermediate_size n_routed_experts n_shared_experts num_experts_per_tok "
        "n_group topk_group norm_topk_prob routed_scaling_factor"
    ),
}


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, all in REQUIRED.items() for field in all.split()]
)
def test_a_lacking_field_is_named(name: str, field: str) -> None:
    with pytest.raises(ProblemError, match=f"^config: lacks {field}; give the complete config"):
        Problem.from_hf_config(config(name, **{field: None}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mixtral-8x7b", {"hidden_size": "big"}, "hidden_size='big': must be a whole number"),
        ("mixtral-8x7b", {"hidden_size": 0}, "hidden=0: must be at least 1"),
        ("mixtral-8x7b", {"num_experts_per_tok": 9}, "top_k=9: must be at most num_experts=8"),
        ("mixtral-8x7b", {"num_experts": 9}, "num_local_experts=8 and num_experts=9 contradict"),
        ("mixtral-8x7b", {"hidden_act": "mish"}, "hidden_act='mish': not known; this moetune"),
        ("gpt-oss-20b", {"hidden_act": "gelu"}, "hidden_act='gelu': not supported"),
        ("gpt-oss-20b", {"experts_per_token": 5}, "contradict each other; keep one"),
        ("olmoe-1b-7b", {"norm_topk_prob": "yes"}, "norm_topk_prob='yes': must be true or false"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func='softmax': not supported"),
        ("deepseek-v3", {"topk_method": "greedy"}, "topk_method='greedy': not supported"),
        ("deepseek-v3", {"n_group": 7}, "num_groups=7: must divide num_experts=256"),
        ("deepseek-v3", {"routed_scaling_factor": True}, "factor=True: must be a number"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as error:
        Problem.from_hf_config(config(name, **changes))
    assert str(error.value).startswith("config: ")
    assert message in str(error.value)


def test_unknown_model_type_lists_the_known_ones() -> None:
    with pytest.raises(ProblemError) as error:
        Problem.from_hf_config(config("mixtral-8x7b", model_type="llama"))
    assert "model_type='llama': not known" in str(error.value)
    assert all(known in str(error.value) for known in READERS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{hidden", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "holds a JSON list, must be an object"),
        (b"{}", "lacks model_type"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ProblemError) as error:
        Problem.from_hf_config(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_a_folder_without_config_are_named(tmp_path: Path) -> None:
    for path, named in ((tmp_path / "no.json", "no.json"), (tmp_path, "config.json")):
        with pytest.raises(ProblemError, match=f"{named}: no such file; give a preset's name or"):
            Problem.from_hf_config(path)


def test_a_path_below_a_file_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProblemError, match=r"cannot be read .*; give a readable config.json"):
        Problem.from_hf_config(tmp_path / "file" / "config.json")


def test_a_model_type_is_one_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(given: Any) -> dict[str, Any]:
        sizes = ("hidden", "expert_dim", "num_experts", "top_k")
        return {name: given.get(int, f"n_{name}") for name in sizes} | {"score": "sigmoid"}

    monkeypatch.setitem(READERS, "toy_moe", read)
    values = {"n_hidden": 64, "n_expert_dim": 32, "n_num_experts": 8, "n_top_k": 2}
    problem = Problem.from_hf_config({"model_type": "toy_moe", **values}, dtype="bfloat16")
    assert problem == Problem(
        hidden=64, expert_dim=32, num_experts=8, top_k=2, score="sigmoid", dtype="bfloat16"
    )
    assert problem.name == "toy_moe"
    with pytest.raises(ProblemError, match=r"this moetune knows .*, toy_moe$"):
        Problem.from_hf_config({"model_type": "other"})
