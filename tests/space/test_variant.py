from __future__ import annotations

import pytest

from tests.space.test_space import GRANITE, HASWELL, ZEN
from tuner.errors import SpaceError
from tuner.space.space import load, resolve
from tuner.space.variant import default_variant, make, pack_config, parse

DEFAULT = default_variant(GRANITE, ZEN)


def test_the_name_is_an_identifier_and_reads_back() -> None:
    assert DEFAULT.name.isidentifier()
    assert parse(DEFAULT.name) == DEFAULT


def test_two_configurations_have_two_names_and_ids() -> None:
    other = make("moe_cpu", {**DEFAULT.config, "chunks": 4})
    assert other.name != DEFAULT.name
    assert other.id != DEFAULT.id


def test_a_name_of_another_grammar_shows_the_grammar() -> None:
    with pytest.raises(SpaceError, match="must be of the form moe_cpu_vN_rN_"):
        parse("moe_cpu_fast")


def test_the_packing_reads_back_and_picks_its_default() -> None:
    assert pack_config(DEFAULT.pack) == {"simd_width": 16, "panel_vectors": 2, "dot": 0}
    other = default_variant(GRANITE, ZEN, pack="v16_p1_o0")
    assert other.pack == "v16_p1_o0"
    assert other.config == {**DEFAULT.config, "panel_vectors": 1}


def test_a_kept_default_is_the_one_that_the_space_gives() -> None:
    file = load("moe_cpu")
    counts = [n + d for n in (1, 2, 16, 24, 64, 128, 4096) for d in (-1, 0, 1) if n + d > 0]
    for target in (ZEN, HASWELL):
        found = [default_variant(GRANITE, target, None, tokens) for tokens in (*counts, *counts)]
        spaces = [resolve(file, GRANITE, target, tokens) for tokens in (*counts, *counts)]
        assert [variant.config for variant in found] == [space.default for space in spaces]
    assert len(set(found)) > 1


def test_a_packing_that_cannot_run_here_is_refused() -> None:
    with pytest.raises(SpaceError, match="no vectors this wide"):
        default_variant(GRANITE, HASWELL, pack="v16_p1_o0")


@pytest.mark.parametrize("pack", ["0", "v16", "v16_p1", "v16_p1_o0_o0", "v16_p1_x0", "v_p_o", "p1"])
def test_what_is_no_packing_is_refused(pack: str) -> None:
    with pytest.raises(SpaceError, match="it must be of the form vN_pN_oN"):
        default_variant(GRANITE, ZEN, pack=pack)


def test_a_missing_parameter_is_named() -> None:
    config = DEFAULT.config
    del config["unroll"]
    with pytest.raises(SpaceError, match="unroll: missing or unknown"):
        make("moe_cpu", config)
