from __future__ import annotations

from pathlib import Path

import pytest

from tuner.codegen import render
from tuner.errors import TemplateError
from tuner.space import templates


def test_every_space_has_its_template() -> None:
    for name in templates.names():
        assert (templates.folder() / f"{name}.mojo.j2").is_file()


def test_unknown_template_names_the_known_ones() -> None:
    with pytest.raises(
        TemplateError, match="template 'moe_tpu': not known; there are moe_cpu, moe_gpu"
    ):
        templates.space_path("moe_tpu")


def test_a_name_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.mojo.j2").write_text("{{ nothing }}")
    with pytest.raises(TemplateError, match="'nothing' is undefined"):
        render.fill("x", {}, tmp_path)


def test_a_missing_include_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.mojo.j2").write_text('{% include "gone.j2" %}')
    with pytest.raises(TemplateError, match=r"gone\.j2 is missing"):
        render.fill("x", {}, tmp_path)


def test_templates_carry_no_machine_and_no_date() -> None:
    for path in templates.folder().rglob("*.j2"):
        text = path.read_text()
        assert "/home" not in text
        assert "20" + "26-" not in text
