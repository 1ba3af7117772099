from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tuner.errors import SpaceError, TemplateError
from tuner.problem import PRESETS, Problem
from tuner.space import space, templates
from tuner.target import Target, named

ZEN = Target("amd", "znver4", ("avx2", "avx512f", "fma"), 2, 32 << 10, 1 << 20, 32 << 20)
HASWELL = dataclasses.replace(ZEN, arch="haswell", features=("avx2", "fma"))
OLD = dataclasses.replace(ZEN, arch="x86-64-v2", features=("sse4.2",))
GRANITE = PRESETS["granite-3.0-1b-a400m"]

GOOD = """
[supports]
kind = ["cpu"]
[pack]
parameters = ["a"]
[parameters.a]
short = "a"
values = [1, 2, "cores"]
default = 2
help = "one"
[[restrictions]]
rule = "a < 9"
why = "because"
[[monotone]]
failure = "memory"
parameters = ["a"]
why = "larger"
[interface]
kind = "cpu-library"
ragged = "a"
priority = 0
"""


def loaded(tmp_path: Path, text: str) -> space.SpaceFile:
    path = tmp_path / "t.toml"
    path.write_text(text)
    return space.load("t", path)


@pytest.mark.parametrize("target", [ZEN, HASWELL, OLD], ids=lambda t: t.arch)
@pytest.mark.parametrize("tokens", [1, 16, 128, 1024])
@pytest.mark.parametrize("problem", PRESETS.values(), ids=lambda p: p.name)
def test_the_default_satisfies_every_restriction(
    problem: Problem, tokens: int, target: Target
) -> None:
    resolved = space.resolve(space.load("moe_cpu"), problem, target, tokens)
    resolved.check(resolved.default)


def test_every_parameter_says_what_it_is_and_every_restriction_why() -> None:
    for name in templates.names():
        file = space.load(name)
        assert all(p.help for p in file.parameters)
        assert all(r.why for r in file.restrictions)


def test_the_interface_is_read(tmp_path: Path) -> None:
    assert loaded(tmp_path, GOOD).interface == space.Interface("cpu-library", "a", 0)
    found = {name: space.load(name).interface for name in templates.names()}
    assert found == {
        "moe_cpu": space.Interface("cpu-library", "tile_rows", 0),
        "moe_gpu": space.Interface("gpu-program", "tile_n", 0),
    }


def test_expressions_become_ordered_numbers(tmp_path: Path) -> None:
    file = loaded(tmp_path, GOOD)
    resolved = space.resolve(file, GRANITE, dataclasses.replace(ZEN, cores=8), 1)
    assert resolved.values == {"a": (1, 2, 8)}


def test_points_are_those_that_no_restriction_breaks(tmp_path: Path) -> None:
    file = loaded(tmp_path, GOOD.replace("a < 9", "a != 1"))
    assert list(space.resolve(file, GRANITE, ZEN, 1).points()) == [{"a": 2}]


def test_the_register_tile_must_fit_the_registers() -> None:
    resolved = space.resolve(space.load("moe_cpu"), GRANITE, ZEN, 128)
    restriction = resolved.broken({**resolved.default, "tile_rows": 14, "tile_vectors": 4})
    assert restriction is not None
    assert "registers" in restriction.rule


def test_tiles_that_share_a_panel_fit_the_last_cache() -> None:
    small = dataclasses.replace(ZEN, l2_bytes=512 << 10, l3_bytes=0)
    unknown = dataclasses.replace(ZEN, l2_bytes=0, l3_bytes=0)
    wide = Problem(hidden=4096, expert_dim=14336, num_experts=2, top_k=1)
    file = space.load("moe_cpu")
    tiles = [space.resolve(file, wide, t, 1024).default["row_tiles"] for t in (ZEN, small, unknown)]
    # One tile of 14 rows has 784 KiB: half of ZEN's 16 MiB for each core holds 10 of them.
    assert tiles == [8, 4, 4]
    assert space.resolve(file, GRANITE, ZEN, 1024).default["row_tiles"] == 64


def test_what_does_not_matter_for_a_workload_is_pinned() -> None:
    file = space.load("moe_cpu")
    assert space.resolve(file, GRANITE, ZEN, 1024).values["gemv_below"] == (2,)
    assert len(space.resolve(file, GRANITE, ZEN, 1).values["gemv_below"]) > 1


def test_a_default_may_follow_from_those_before_it(tmp_path: Path) -> None:
    more = (
        '[parameters.b]\nshort = "b"\nvalues = [1, 4]\ndefault = "4 if a == 2 else 1"\nhelp = "x"\n'
    )
    file = loaded(tmp_path, GOOD.replace("[[restr", f"{more}[[restr", 1))
    assert space.resolve(file, GRANITE, ZEN, 1).default == {"a": 2, "b": 4}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('values = [1, 2, "cores"]', "values = []", 8, "parameters.a.values: is empty"),
        ('values = [1, 2, "cores"]', "values = 1", 8, "parameters.a.values: must be a list, is 1"),
        ('rule = "a < 9"', 'rule = "b < 9"', 12, "restrictions.rule: 'b < 9' reads b, which is not"),
        ('rule = "a < 9"', 'rule = "a <"', 12, "restrictions.rule: 'a <'"),
        ("default = 2", "default = 3", 9, "parameters.a.default: default 3 is not in [1, 2]"),
        ("default = 2", 'default = "a"', 9, "parameters.a.default: 'a' reads a, which is not"),
        ("default = 2", 'default = "z"', 9, "parameters.a.default: 'z' reads z, which is not"),
        ('rule = "a < 9"', 'rule = "a < 2"', 12, "the default breaks 'a < 2': because"),
        ('parameters = ["a"]', 'parameters = ["z"]', 5, "pack.parameters: z is no parameter"),
        ("[supports]", "[supports", 2, "is no TOML"),
        ('failure = "memory"', 'failure = "spill"', 15, "failure 'spill' must be one of ['compile', "),
        ('parameters = ["a"]\nwhy', 'parameters = ["z"]\nwhy', 16, "z is no parameter; there are a"),
        ('parameters = ["a"]\nwhy', "parameters = []\nwhy", 16, "'memory' names no parameter"),
        ('short = "a"', "", 6, "parameters.a.short: 'short' is missing"),
        ("[supports]", "[supported]", 1, "supports: 'supports' is missing"),
        ("[pack]", "[starts]", 1, "pack.parameters: 'parameters' is missing"),
        ('why = "larger"\n', '[[starts]]\na = 1\n[[starts]]\nb = 1\n', 14, "monotone.why"),
        ('"larger"\n', '"larger"\n[[starts]]\na = 1\n[[starts]]\nb = 1\n', 21, "b is no parameter"),
        ("[[restr", '[parameters.b]\nshort = "a"\nvalues = [1]\ndefault = 1\nhelp = "x"\n[[restr',
         12, "parameters.b.short: 'a' is that of a, too"),
        ("[interface]", "[interfaces]", 1, "interface.kind: 'kind' is missing; see templates/moe_cpu.toml"),
        ('kind = "cpu-library"', 'kind = "exe"', 19, "'exe' is no kind of binary; use one of cpu-library"),
        ('ragged = "a"', 'ragged = "z"', 20, "interface.ragged: z is no parameter; there are a"),
        ("priority = 0", 'priority = "0"', 21, "interface.priority: must be a int, is '0'"),
        ('[pack]', '[pack]\nfamily = "A b"', 5, "pack.family: is 'A b', must be of a-z, 0-9 and _"),
        ("[pack]", "[history]\n[pack]", 4, "history.same: 'same' is missing"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_its_line_and_what_is_wrong(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    with pytest.raises(SpaceError) as error:
        space.resolve(
            loaded(tmp_path, GOOD.replace(old, new, 1)),
            GRANITE,
            dataclasses.replace(ZEN, cores=1),
            1,
        )
    assert str(error.value).startswith(f"{tmp_path / 't.toml'}:{line}: ")
    assert message in str(error.value)


def test_a_target_that_the_template_lacks_names_those_it_has() -> None:
    gpu = dataclasses.replace(ZEN, kind="gpu")
    with pytest.raises(TemplateError, match="kind=gpu: template moe_cpu makes cpu kernels"):
        space.resolve(space.load("moe_cpu"), GRANITE, gpu, 1)


def test_dot_products_need_the_feature_and_the_data_type() -> None:
    able = dataclasses.replace(ZEN, features=(*ZEN.features, "avx512bf16"))
    half = GRANITE.replace(dtype="bfloat16")
    cases = ((able, half, 1), (ZEN, half, 0), (able, GRANITE, 0))
    for target, problem, dot in cases:
        assert space.resolve(space.load("moe_cpu"), problem, target, 1).default["dot"] == dot


def test_a_monotone_failure_rules_out_what_is_as_large_in_all_its_parameters() -> None:
    rule = space.Monotone("memory", ("a", "b"), "why")
    failed = {"a": 2, "b": 4, "c": 0}
    assert rule.rules_out(failed, {"a": 2, "b": 8, "c": 9})
    assert not rule.rules_out(failed, {"a": 1, "b": 8, "c": 0})


def test_every_template_names_parameters_that_grow() -> None:
    """The rules reach the space that is searched, with their reasons."""
    resolved = space.resolve(space.load("moe_cpu"), GRANITE, ZEN, 128)
    assert {rule.failure for rule in resolved.monotone} == {"memory", "build_timeout"}
    assert all(rule.why for rule in resolved.monotone)


def test_a_narrow_space_varies_what_was_named(tmp_path: Path) -> None:
    resolved = space.resolve(space.load("moe_cpu"), GRANITE, ZEN, 128)
    narrow = resolved.narrow({"tile_rows": (14, 6), "chunks": (1, 2)})
    assert narrow.values["tile_rows"] == (6, 14)
    free = {name for name, values in narrow.values.items() if len(values) > 1}
    assert free == {"tile_rows", "chunks"}
    assert narrow.default == resolved.default


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": (1,)}, "rows: no parameter of moe_cpu"),
        ({"chunks": (2, 3)}, "chunks=3: must be one of"),
        ({"chunks": (1, 4)}, "chunks=2: is the default and has to be among the values"),
    ],
)
def test_a_narrow_space_that_cannot_be(values: dict[str, tuple[int, ...]], message: str) -> None:
    resolved = space.resolve(space.load("moe_cpu"), GRANITE, ZEN, 128)
    with pytest.raises(SpaceError, match=message):
        resolved.narrow(values)


def test_a_space_goes_through_json_with_the_order_of_its_parameters() -> None:
    resolved = space.resolve(space.load("moe_cpu"), GRANITE, ZEN, 128)
    again = space.Space.from_json(json.loads(json.dumps(resolved.to_json())))
    assert again == resolved
    assert list(again.values) == list(resolved.values)
    with pytest.raises(SpaceError, match="record the grid again"):
        space.Space.from_json({"values": {}})


@pytest.mark.parametrize("card", ["nvidia-h100", "nvidia-h200"])
@pytest.mark.parametrize("tokens", [1, 16, 128, 1024, 4096, 16384])
@pytest.mark.parametrize("problem", PRESETS.values(), ids=lambda p: p.name)
def test_a_gpu_s_default_satisfies_every_restriction(
    problem: Problem, tokens: int, card: str
) -> None:
    file = space.load("moe_gpu")
    found = space.resolve(file, problem.replace(dtype="bfloat16"), named(card), tokens)
    assert found.broken(found.default) is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hidden": 100}, "whole stages"),
        ({"shared_dim": 100}, "width"),
        ({"dtype": "bfloat16", "weight_dtype": "float16"}, "one data type"),
    ],
)
def test_what_a_gpu_s_template_cannot_do_is_said(changes: dict[str, object], why: str) -> None:
    problem = GRANITE.replace(**{"dtype": "bfloat16", **changes})
    with pytest.raises(SpaceError, match=why):
        space.resolve(space.load("moe_gpu"), problem, named("nvidia-h100"), 1)
