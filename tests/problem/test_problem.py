"""Problem: keys, presets, defaults by hand, and the error for each thing that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tuner.errors import ProblemError
from tuner.problem import PRESETS, Problem

SIZES = {"hidden": 16, "expert_dim": 8, "num_experts": 4, "top_k": 2}
SHIPPED = Path(__file__).parents[1] / "models"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
CONFIGS = [*sorted(SHIPPED.glob("*.json")), *sorted(SHARED.glob("*.json"))]


def test_by_hand_routes_with_softmax_topk_renormalised() -> None:
    problem = Problem(**SIZES)
    assert (problem.score, problem.renormalize, problem.activation) == ("softmax", True, "swiglu")
    assert (problem.num_groups, problem.routing_scale, problem.shared_dim) == (1, 1.0, 0)


def test_is_hashable_and_the_label_is_not_part_of_the_key() -> None:
    one, other = Problem(**SIZES, name="one"), Problem(**SIZES, name="other")
    assert len({one, other}) == 1
    assert one.digest == other.digest


def test_every_field_but_the_label_changes_the_digest() -> None:
    base = PRESETS["deepseek-v3"].replace(
        activation="swiglu_clamped", score="sigmoid", renormalize=True
    )
    changes: dict[str, object] = {
        "hidden": 1, "expert_dim": 1, "num_experts": 512, "top_k": 1, "activation": "relu",
        "expert_bias": True, "swiglu_limit": 1.0, "swiglu_alpha": 1.0, "renormalize": False,
        "routing_scale": 1.0, "num_groups": 16, "top_groups": 2, "router_bias": True,
        "correction_bias": False, "shared_dim": 0, "dtype": "bfloat16", "weight_dtype": "float16",
    }  # fmt: skip
    digests = {base.replace(**{field: value}).digest for field, value in changes.items()}
    digests.add(base.replace(num_groups=1, top_groups=1, score="softmax").digest)
    assert len(digests | {base.digest}) == len(changes) + 2


def test_digest_does_not_depend_on_the_run() -> None:
    assert PRESETS["classic-moe"].digest == "a445fd767228eb9c"


@pytest.mark.parametrize("name", PRESETS)
def test_key_round_trips_through_json(name: str) -> None:
    problem = Problem.preset(name)
    again = Problem.from_key(json.loads(json.dumps(problem.key)))
    assert again == problem
    assert list(problem.key) == sorted(problem.key)


def test_unused_clamp_values_do_not_make_another_key() -> None:
    assert Problem(**SIZES, swiglu_limit=3.0) == Problem(**SIZES)
    assert Problem(**SIZES).swiglu_limit == 0.0


def test_integers_and_floats_make_one_key() -> None:
    assert Problem(**SIZES, routing_scale=2).digest == Problem(**SIZES, routing_scale=2.0).digest


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.parent.name}-{p.stem}")
def test_preset_equals_the_published_config(path: Path) -> None:
    name = path.name.removesuffix(".config.json")
    assert Problem.preset(name) == Problem.from_hf_config(path)
    assert Problem.from_hf_config(path).name == name


def test_each_model_preset_has_its_config() -> None:
    stems = {path.name.removesuffix(".config.json") for path in SHIPPED.glob("*.json")}
    assert stems | {"classic-moe"} == set(PRESETS)


def test_replace_lets_weights_follow_the_activations() -> None:
    problem = Problem(**SIZES)
    assert problem.replace(dtype="bfloat16").weight_dtype == "bfloat16"
    apart = problem.replace(dtype="bfloat16", weight_dtype="float16")
    assert apart.replace(dtype="float32").weight_dtype == "float16"


def test_replace_to_clamped_starts_from_the_limit_of_gpt_oss() -> None:
    clamped = Problem(**SIZES).replace(activation="swiglu_clamped")
    assert (clamped.swiglu_limit, clamped.swiglu_alpha) == (7.0, 1.702)
    assert clamped.replace(swiglu_limit=2.0).replace(top_k=1).swiglu_limit == 2.0


def test_bytes_and_operations_of_the_two_expert_forms() -> None:
    gated = Problem(**SIZES, expert_bias=True, shared_dim=5)
    relu = gated.replace(activation="relu")
    assert (gated.flops_per_pair, relu.flops_per_pair) == (6 * 16 * 8, 4 * 16 * 8)
    assert (gated.shared_flops_per_token, relu.shared_flops_per_token) == (6 * 80, 4 * 80)
    assert gated.expert_weight_bytes == 4 * (3 * 128 + 2 * 8 + 16)
    assert relu.expert_weight_bytes == 4 * (2 * 128 + 8 + 16)
    assert gated.replace(weight_dtype="float16").shared_weight_bytes == 2 * 3 * 16 * 5
    assert gated.replace(router_bias=True).router_weight_bytes == 4 * 4 * (16 + 1)


def test_describe_says_everything_that_is_not_usual() -> None:
    assert Problem(**SIZES).describe() == "D=16 F=8 E=4 k=2, swiglu, softmax, float32"
    assert PRESETS["deepseek-v3"].describe() == (
        "deepseek-v3: D=7168 F=2048 E=256 k=8, swiglu, sigmoid, weights x 2.5, 4 of 8 groups, "
        "correction bias, shared Fs=2048, float32"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "hidden=0: must be at least 1; give the model's hidden size"),
        ({"expert_dim": -4}, "expert_dim=-4: must be at least 1"),
        ({"hidden": 1.5}, "hidden=1.5: must be a whole number"),
        ({"num_experts": True}, "num_experts=True: must be a whole number"),
        ({"top_k": 0}, "top_k=0: must be at least 1"),
        ({"top_k": 5}, "top_k=5: must be at most num_experts=4"),
        ({"shared_dim": -1}, "shared_dim=-1: must be at least 0; use 0 where there is no shared"),
        ({"activation": "mish"}, "activation='mish': not known; use one of swiglu, geglu"),
        ({"score": "tanh"}, "score='tanh': not known; use one of softmax, topk_softmax, sigmoid"),
        ({"dtype": "int8"}, "dtype='int8': not known; use one of float32, bfloat16, float16"),
        ({"weight_dtype": "int4"}, "weight_dtype='int4': not known"),
        ({"accum_dtype": "float16"}, "accum_dtype='float16': not known; use one of float32"),
        ({"expert_bias": 1}, "expert_bias=1: must be True or False"),
        ({"routing_scale": 0.0}, "routing_scale=0.0: must be finite and above 0"),
        ({"routing_scale": float("nan")}, "routing_scale=nan: must be finite"),
        ({"routing_scale": "2"}, "routing_scale='2': must be a number"),
        ({"activation": "swiglu_clamped", "swiglu_limit": -1.0}, "swiglu_limit=-1.0: must be"),
        ({"num_groups": 2}, "num_groups=2: score=softmax has no groups; use 1"),
        ({"score": "sigmoid", "num_groups": 3}, "num_groups=3: must divide num_experts=4"),
        ({"score": "sigmoid", "top_groups": 2}, "top_groups=2: must be at most num_groups=1"),
        ({"score": "sigmoid", "num_groups": 4}, "top_k=2: only 1 experts are in top_groups=1"),
        (
            {"score": "topk_softmax", "renormalize": False},
            "renormalize=False: topk_softmax sums to 1",
        ),
        (
            {"score": "topk_softmax", "correction_bias": True},
            "correction_bias=True: topk_softmax has none",
        ),
        ({"hiden": 3}, "hiden: no field of a Problem; use accum_dtype, activation"),
    ],
)
def test_error_names_the_field_the_value_and_the_rule(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ProblemError) as error:
        Problem(**SIZES).replace(**changes)
    assert str(error.value).startswith(message)


def test_from_key_refuses_unknown_and_lacking_fields() -> None:
    key = Problem(**SIZES).key
    with pytest.raises(ProblemError, match=r"^banana: no field of a Problem"):
        Problem.from_key({**key, "banana": 1})
    del key["top_k"]
    with pytest.raises(ProblemError, match="lacks top_k; give every field"):
        Problem.from_key(key)


def test_unknown_preset_suggests_a_close_one_and_lists_all() -> None:
    with pytest.raises(ProblemError) as error:
        Problem.preset("mixtral-8x7")
    assert "did you mean mixtral-8x7b?" in str(error.value)
    assert all(name in str(error.value) for name in PRESETS)
