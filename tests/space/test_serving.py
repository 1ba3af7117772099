"""A second template: two files, and everything that asks for a template finds it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.space.test_space import GRANITE, ZEN
from tests.toys import add_toy, copied, installed
from tuner.codegen.render import render
from tuner.errors import SpaceError, TemplateError
from tuner.space import space, templates
from tuner.space.variant import (
    default_variant,
    make,
    pack_config,
    pack_templates,
    parse,
    serving,
)
from tuner.target import named

H100 = named("nvidia-h100")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copied(tmp_path)


def names(files: tuple[space.SpaceFile, ...]) -> list[str]:
    return [file.template for file in files]


def test_one_template_serves_a_kind_of_target() -> None:
    assert names(serving(GRANITE, ZEN)) == ["moe_cpu"]
    assert names(serving(GRANITE.replace(dtype="bfloat16"), H100)) == ["moe_gpu"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "dtype=float32: template moe_gpu makes bfloat16, float16 kernels; use dtype='bfloat16'"),
        ({"dtype": "bfloat16", "hidden": 100}, "template moe_gpu: hidden % 64 == 0 and expert_dim % 64 == 0: "
         "does not hold: a stage holds 64 depth elements"),
    ],
)  # fmt: skip
def test_why_none_serves_is_said_by_the_template_of_the_kind(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(TemplateError) as error:
        serving(GRANITE.replace(**changes), H100)
    assert str(error.value).startswith(message)


def test_where_none_of_several_serves_each_says_why(folder: Path) -> None:
    add_toy(folder, dtype='["bfloat16"]')
    cpu = folder / "moe_cpu.toml"
    cpu.write_text(cpu.read_text().replace('\ndtype = ["float32", ', "\ndtype = ["))
    with installed(folder), pytest.raises(TemplateError) as error:
        serving(GRANITE, ZEN)
    assert "template moe_cpu makes bfloat16, float16 kernels" in str(error.value)
    assert "; dtype=float32: template moe_toy makes bfloat16 kernels" in str(error.value)


@pytest.mark.parametrize(("priority", "first"), [(1, "moe_toy"), (-1, "moe_cpu"), (0, "moe_cpu")])
def test_the_highest_priority_gives_the_default(folder: Path, priority: int, first: str) -> None:
    add_toy(folder, priority=str(priority))
    with installed(folder):
        assert set(names(serving(GRANITE, ZEN))) == {"moe_cpu", "moe_toy"}
        assert default_variant(GRANITE, ZEN).template == first


def test_a_second_template_is_named_parsed_and_rendered(folder: Path) -> None:
    add_toy(folder, "moe_cpu_toy", family='"toy"', priority="1")
    with installed(folder):
        variant = default_variant(GRANITE, ZEN, tokens=64)
        assert parse(variant.name) == variant
        assert variant.ragged == variant.config["height"] == 14
        assert "comptime TILE_ROWS = 14" in render(GRANITE, variant).text
        assert parse(make("moe_cpu", {**defaults("moe_cpu")}).name).template == "moe_cpu"


def defaults(name: str) -> space.Config:
    return space.resolve(space.load(name), GRANITE, ZEN, 64).default


def test_packed_forms_of_two_templates_are_told_apart(folder: Path) -> None:
    text = (folder / "moe_cpu.toml").read_text()
    add_toy(folder)
    toy = folder / "moe_toy.toml"
    toy.write_text(toy.read_text().replace('family = ""\n', ""))  # then it is the template's name
    assert toy.read_text() != text
    with installed(folder):
        packs = {name: make(name, defaults(name)).pack for name in ("moe_cpu", "moe_toy")}
        assert packs == {"moe_cpu": "v16_p2_o0", "moe_toy": "moe_toy_v16_p2_o0"}
        assert {pack_templates(pack) for pack in packs.values()} == {("moe_cpu",), ("moe_toy",)}
        assert pack_config(packs["moe_toy"]) == pack_config(packs["moe_cpu"])
        for name, pack in packs.items():
            assert default_variant(GRANITE, ZEN, pack=pack).template == name


def test_templates_of_one_family_share_their_packed_forms(folder: Path) -> None:
    add_toy(folder, priority="1")
    with installed(folder):
        assert pack_templates("v16_p2_o0") == ("moe_toy", "moe_cpu")
        assert default_variant(GRANITE, ZEN, pack="v16_p1_o0").template == "moe_toy"


def test_one_family_with_other_parameters_is_refused(folder: Path) -> None:
    add_toy(folder)
    toy = folder / "moe_toy.toml"
    toy.write_text(toy.read_text().replace('"simd_width", "panel_vectors"', '"simd_width", "row_tiles"')
                   .replace('short = "p"', 'short = "x"').replace('short = "t"', 'short = "p"'))  # fmt: skip
    with (
        installed(folder),
        pytest.raises(SpaceError, match="a form of moe_cpu and moe_toy, of other"),
    ):
        pack_config("v16_p2_o0")


def test_the_form_of_no_parameter_is_the_gpu_s() -> None:
    """Its stored winners have it: nothing but the family tells forms of no parameter apart."""
    assert pack_templates("") == ("moe_gpu",)
    assert pack_config("") == {}
    half = GRANITE.replace(dtype="bfloat16")
    assert default_variant(half, H100, pack="") == default_variant(half, H100)
    with pytest.raises(
        SpaceError, match="pack '': no packed form of moe_cpu; it must be of the form vN_pN_oN"
    ):
        default_variant(GRANITE, ZEN, pack="")


def test_a_name_of_no_template_names_those_that_there_are() -> None:
    with pytest.raises(
        SpaceError, match="must begin with a template that is installed: moe_cpu, moe_gpu"
    ):
        parse("moe_max_v16")
    assert "moe_max" not in templates.names()
