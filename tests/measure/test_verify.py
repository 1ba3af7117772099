from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.kernels import REDUCED, TINY, kernel, variant
from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.cpu.kernel import Kernel
from tuner.measure import extremes, reference, right_answers, verify
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.space.variant import default_variant
from tuner.target import can_run, detect, named
from tuner.tune.session import OTHER_SEED

# Every structure of the template at least once, beside the default.
FORMS = {
    "default": {},
    "interleaved": {"act_block": 1, "gemv_below": 0, "tile_rows": 6, "tile_vectors": 4},
    "blocked": {"depth_block": 256, "row_tiles": 4, "panel_vectors": 2, "prefetch": 8},
    "narrow": {"simd_width": 8, "tile_rows": 4, "unroll": 1, "gemv_below": 9, "gemv_chains": 4},
    "one": {"workers": 1, "tile_rows": 13, "act_block": 64, "unroll": 2, "prefetch_panel": 0},
}


def expectations(
    problem: Problem, seed: int, tokens: int = 70
) -> tuple[right_answers.Expected, ...]:
    weights = Weights.random(problem, seed).check(problem)
    return tuple(
        right_answers.expect(problem, weights, case)
        for case in right_answers.cases(problem, tokens, 12, seed)
    )


def verdict(problem: Problem, changes: dict[str, int], seed: int) -> verify.Verdict:
    layer = kernel(problem, **changes)
    packed = layer.pack(Weights.random(problem, seed).check(problem))
    return verify.verify(layer, packed, expectations(problem, seed))


def deep(problem: Problem, changes: dict[str, int]) -> Problem:
    """A depth block must be smaller than the depth."""
    return problem.replace(hidden=300, expert_dim=272) if changes.get("depth_block") else problem


@pytest.fixture(scope="module")
def built() -> None:
    """Compiles everything this file needs, two at a time."""
    wanted = [(p, FORMS["default"]) for p in REDUCED.values()]
    wanted += [(deep(REDUCED["gpt-oss-20b"], c), c) for c in FORMS.values()]
    with ThreadPoolExecutor(2) as pool:
        sources = [render(p, variant(p, c)).text for p, c in wanted]
        list(pool.map(lambda text: compile_source(text, detect()), sources))


@pytest.mark.compiler
@pytest.mark.parametrize("name", REDUCED)
def test_all_seven_configurations_are_right(name: str, built: None) -> None:
    for seed in (1, 2):
        found = verdict(REDUCED[name], {}, seed)
        assert found.message == ""
        assert found.worst <= 1e-5


@pytest.mark.compiler
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_template_is_right(form: str, built: None) -> None:
    changes = FORMS[form]
    assert verdict(deep(REDUCED["gpt-oss-20b"], changes), changes, 5).message == ""


@pytest.mark.compiler
@pytest.mark.parametrize("name", ["gpt-oss-20b", "deepseek-v3"])
def test_masked_experts_are_never_chosen(name: str, built: None) -> None:
    """A bias of minus infinity, before the softmax or as the correction of a choice by groups."""
    problem = REDUCED[name]
    weights = Weights.random(problem, 9)
    field = "router_bias" if problem.router_bias else "correction_bias"
    bias = getattr(weights, field).copy()
    bias[[0, 5, 15]] = -np.inf
    masked = dataclasses.replace(weights, **{field: bias}).check(problem)
    answers = right_answers.Answers(problem, masked)
    layer = kernel(problem)
    expected = answers.of(
        tuple(right_answers.Case(t, load, 3) for t in (1, 40) for load in ("router", "extreme"))
    )
    assert verify.verify(layer, layer.pack(masked), expected).message == ""
    chosen = [e.indices[~extremes.spoiled(e.x)] for e in expected]
    assert not any(np.isin(indices, (0, 5, 15)).any() for indices in chosen)


@pytest.mark.compiler
@pytest.mark.parametrize("activation", ["geglu", "geglu_tanh"])
def test_other_activations_are_right(activation: str) -> None:
    assert verdict(TINY.replace(activation=activation), {}, 4).message == ""


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("arch", "activation"),
    [
        ("x86-64", "swiglu"),
        ("x86-64-v2", "swiglu_clamped"),
        ("x86-64-v2", "geglu_tanh"),
        ("x86-64-v3", "swiglu"),
    ],
)
def test_older_feature_sets_are_right_and_call_no_libm(arch: str, activation: str) -> None:
    """Without fused multiply-adds, each one would be a call: 26 times slower when it was measured."""
    target = named(arch)
    if not can_run(detect(), target.features):
        pytest.skip(f"this machine does not run {arch}")
    problem = REDUCED["granite-3.0-1b-a400m"].replace(activation=activation)
    source = render(problem, default_variant(problem, target, tokens=70))
    binary = compile_source(source.text, target)
    assert b"fmaf" not in binary.path.read_bytes()
    layer = Kernel(binary.path, problem)
    packed = layer.pack(Weights.random(problem, 6).check(problem))
    assert verify.verify(layer, packed, expectations(problem, 6)).message == ""


@pytest.mark.compiler
@pytest.mark.parametrize(
    "form", [{}, {"dot": 0}, {"gemv_below": 0, "tile_rows": 6, "tile_vectors": 4}]
)
@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("float32", "bfloat16"),
        ("float32", "float16"),
    ],
)
def test_16_bit_types_are_right(dtype: str, weight_dtype: str, form: dict[str, int]) -> None:
    """Odd sizes: pairs of bfloat16 must be filled up."""
    problem = REDUCED["gpt-oss-20b"].replace(
        hidden=105, expert_dim=71, dtype=dtype, weight_dtype=weight_dtype
    )
    found = verdict(problem, form, 3)
    assert found.message == ""
    assert found.worst > 0


@pytest.mark.compiler
def test_many_tokens_in_several_passes_are_right() -> None:
    problem = TINY.replace(hidden=512, expert_dim=256)
    layer = kernel(problem, scratch_mib=16)
    packed = layer.pack(Weights.random(problem, 8).check(problem))
    assert layer.scratch_bytes(5003) <= 16 << 20 < 2 * layer.scratch_bytes(5003)
    assert verify.verify(layer, packed, expectations(problem, 8, tokens=5003)).message == ""


def test_the_cases_hold_what_must_always_be_tried() -> None:
    cases = right_answers.cases(TINY, 128, 12, seed=0)
    assert {1, 13, 128} <= {case.tokens for case in cases}
    onehot = next(case for case in cases if case.load == "onehot")
    expected = right_answers.expect(TINY, Weights.random(TINY, 0).check(TINY), onehot)
    assert (expected.indices == 0).any(axis=1).all()


def test_an_expert_without_tokens_is_among_the_cases() -> None:
    problem = REDUCED["qwen3-30b-a3b"]
    weights = Weights.random(problem, 0).check(problem)
    empty = [
        problem.num_experts - len(np.unique(right_answers.expect(problem, weights, case).indices))
        for case in right_answers.cases(problem, 16, 4, seed=0)
    ]
    assert max(empty) > 0


class _Damaged:
    """A kernel whose answers are spoiled in one way after it ran."""

    def __init__(self, layer: Kernel, spoil: str) -> None:
        self._layer, self._spoil = layer, spoil
        self.problem, self.scratch_bytes = layer.problem, layer.scratch_bytes

    def run(self, packed, x, y, indices, weights, scratch, routed=False):  # type: ignore[no-untyped-def]
        self._layer.run(packed, x, y, indices, weights, scratch, routed)
        match self._spoil:
            case "zeros":
                y[:] = 0
            case "one element":
                y[-1, -1] += 1e-3 * np.abs(y).max()
            case "nan":
                y[0, 3] = np.nan
            case "routing":
                indices[0, [0, 1]] = indices[0, [1, 0]]
            case "weights":
                weights[0, 0] *= 1.001
            case "input":
                x[0, 0] += 1
            case "hides NaN":
                y[~np.isfinite(x).all(axis=1)] = 0
            case "one expert twice":
                spoiled = ~np.isfinite(x).all(axis=1)
                indices[spoiled] = indices[spoiled, :1]
            case "beyond the experts":
                indices[~np.isfinite(x).all(axis=1)] = self.problem.num_experts
            case "neighbours":  # a bit of another token's output
                spoiled = ~np.isfinite(x).all(axis=1)
                if spoiled.any() and not spoiled.all():
                    y.view(np.uint32)[np.argmin(spoiled), 0] ^= 1
            case "before":
                np.lib.stride_tricks.as_strided(y.reshape(-1)[:1], (2,), (-4,))[1] = 1.0
            case "after":
                np.lib.stride_tricks.as_strided(scratch[-1:], (2,), (4,))[1] = 1.0


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("zeros", "relative error 1.00e"),
        ("one element", "relative error"),
        ("nan", "not finite"),
        ("routing", "routed to"),
        ("weights", "routing weights are off"),
        ("input", "x: was written to"),
        ("hides NaN", "is not finite, and its output is not NaN"),
        ("one expert twice", "not different experts"),
        ("beyond the experts", "not different experts"),
        ("neighbours", "its output depends on tokens that are not finite"),
        ("before", "y: written outside"),
        ("after", "scratch: written outside"),
    ],
)
def test_a_wrong_kernel_is_found_out(spoil: str, message: str) -> None:
    layer = kernel(TINY)
    packed = layer.pack(Weights.random(TINY, 1).check(TINY))
    damaged = _Damaged(layer, spoil)
    found = verify.verify(damaged, packed, expectations(TINY, 1))  # type: ignore[arg-type]
    assert not found.ok
    assert message in found.message


# A kernel that is right, and then does what the last word of its arguments says.
SPOILS = """
comptime Rows = Pointer[Float32, MutUntrackedOrigin]
comptime Bits = Pointer[Int32, MutUntrackedOrigin]

def spoil(arguments: I64):
    var count = Int(arguments[unsafe_offset=0]) * 48
    var y = Rows(unsafe_from_address=Int(arguments[unsafe_offset=2]))
    var first = Bits(unsafe_from_address=Int(arguments[unsafe_offset=1]))[unsafe_offset=0]
    var mode = arguments[unsafe_offset=15]
    if mode == 1 or (mode == 5 and not (KNOWN)):
        for i in range(count):
            y[unsafe_offset=i] = 0
    elif mode == 2:
        y[unsafe_offset=3] = y[unsafe_offset=3] / 0
    elif mode == 3:
        y[unsafe_offset=count] = 1
    elif mode == 4:
        y[unsafe_offset=-1] = 1

"""
SEED = 11


@pytest.fixture(scope="module")
def spoiling() -> Kernel:
    expected = expectations(TINY, SEED)
    asked = [e.x for e in expected] + [extremes.without_extremes(e.x) for e in expected]
    firsts = {int(x.view(np.int32)[0, 0]) for x in asked}
    known = " or ".join(f"first == {first}" for first in sorted(firsts))
    text = render(TINY, variant(TINY)).text
    head, call, body = text.partition("@export\ndef moe_call(")
    body = body.replace(
        "        first += step\n", "        first += step\n    spoil(arguments)\n", 1
    )
    source = head + SPOILS.replace("KNOWN", known) + call + body
    return Kernel(compile_source(source, detect()).path, TINY)


@pytest.mark.compiler
@pytest.mark.parametrize(
    ("mode", "seed", "message"),
    [
        (0, SEED, ""),
        (1, SEED, "T=1 router: relative error 1.00e+00"),
        (2, SEED, "T=1 router: y: 1 of 48 elements are not finite"),
        (3, SEED, "T=1 router: y: written outside its 192 bytes"),
        (4, SEED, "T=1 router: y: written outside its 192 bytes"),
        (5, SEED, ""),
        (5, SEED + OTHER_SEED, "T=1 router: relative error 1.00e+00"),
    ],
)
def test_a_compiled_kernel_that_is_wrong_is_found_out(
    mode: int, seed: int, message: str, spoiling: Kernel
) -> None:
    """Zeros, NaN, writes behind and before y, and zeros for all tokens but those of one seed."""
    packed = spoiling.pack(Weights.random(TINY, seed).check(TINY))
    spoiling._pool._arguments[15] = mode
    found = verify.verify(spoiling, packed, expectations(TINY, seed))
    assert (found.ok, message) == (not message, found.message[: len(message)])


def test_a_tie_may_be_routed_either_way() -> None:
    problem = TINY
    weights = Weights.random(problem, 0).check(problem)
    router = weights.router.copy()
    router[1] = router[0]
    tied = dataclasses.replace(weights, router=router)
    case = right_answers.Case(40, "router", 3)
    expected = right_answers.expect(problem, tied, case)
    chosen = (np.isin(expected.indices, (0, 1))).sum(axis=1) == 1
    assert expected.ties[chosen].all()


def test_cases_of_all_tiles_share_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = REDUCED["gpt-oss-20b"]
    weights = Weights.random(problem, 3).check(problem)
    answers = right_answers.Answers(problem, weights)
    passes = []
    monkeypatch.setattr(
        right_answers.reference, "moe_and_sizes", counted(passes, reference.moe_and_sizes)
    )
    for tile_rows in (4, 12, 14):
        cases = right_answers.cases(problem, 70, tile_rows, 3)
        for case, found in zip(cases, answers.of(cases), strict=True):
            assert (found.case, found.x.shape[0], len(found.y)) == (
                case, case.tokens, len(found.rows),
            )  # fmt: skip
            alone = reference.moe(
                problem, weights, found.x[found.rows],
                (found.indices[found.rows], found.weights[found.rows]),
            )  # fmt: skip
            np.testing.assert_allclose(found.y, alone, rtol=1e-9, atol=1e-12)
    assert passes[0] > 100
    assert len(passes) == 1 + 3 * len(cases)


def counted(passes: list[int], moe: Any) -> Any:
    """The reference, noting how many tokens it got."""

    def call(problem: Problem, weights: Weights, x: Any, routing: Any) -> Any:
        passes.append(len(x))
        return moe(problem, weights, x, routing)

    return call
