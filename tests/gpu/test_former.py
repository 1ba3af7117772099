"""Programs of ABI 1 against those that say the same themselves.

The golden files are what compiled templates have printed, without PTX; those named `former` are of ABI 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.gpu import former_pack
from tests.programs import SMALL, former_program, program
from tuner.errors import KernelError
from tuner.gpu import former
from tuner.gpu.program import layer_program
from tuner.gpu.ptx import Program
from tuner.problem import Problem
from tuner.problem.weights import Weights
from tuner.problem.workload import Workload, pairs_per_expert, route_by_load

GOLDEN = Path(__file__).parents[1] / "golden" / "gpu_programs"
QWEN = Problem.preset("qwen3-30b-a3b").replace(dtype="bfloat16")
DEEPSEEK = Problem.preset("deepseek-v3").replace(dtype="bfloat16")
COUNTS = (1, 2, 7, 16, 129, 1000, 4096, 30000)
TILED = ("gpt-oss-20b", "gpt-oss-20b_cluster", "deepseek-v3", "classic-moe")
FACTS = {"route_tokens": 16, "route_experts": 8, "choose_tokens": 8, "combine_elements": 2048}
FACTS |= {"pieces1": 3, "pieces2": 5, "blocks1": 1, "blocks2": 1}


def both(name: str) -> tuple[Program, Program]:
    """A golden program of ABI 1, completed, and what it prints of itself today."""
    problem = Problem.preset(name.partition("_")[0]).replace(dtype="bfloat16")
    texts = [(GOLDEN / f"{name}{end}.txt").read_text() for end in (".former", "")]
    old, new = (layer_program(problem, text, name) for text in texts)
    assert (old.facts["abi"], new.facts["abi"]) == (1, 2)
    return old, new


@pytest.mark.parametrize("name", [*TILED, "gpt-oss-20b_stream"])
def test_launches_and_packing_are_those_of_the_program_itself(name: str) -> None:
    old, new = both(name)
    for tokens in COUNTS:
        for multiprocessors in (1, 114, 132, 133):
            assert old.grids(tokens, multiprocessors) == new.grids(tokens, multiprocessors)
    assert old.packing.digest == new.packing.digest
    assert (list(old.kernels), old.dense) == (list(new.kernels), new.dense)
    assert [k.params for k in old.kernels.values()] == [k.params for k in new.kernels.values()]


@pytest.mark.parametrize("name", TILED)
def test_buffers_are_those_of_the_program_itself(name: str) -> None:
    old, new = both(name)
    for tokens in COUNTS:
        assert old.scratch_sizes(tokens, 132) == new.scratch_sizes(tokens, 132)


def test_the_streaming_form_asks_for_less_than_it_was_given() -> None:
    old, new = both("gpt-oss-20b_stream")
    for tokens in COUNTS:
        given, asked = old.scratch_sizes(tokens, 132), new.scratch_sizes(tokens, 132)
        assert asked == {"logits": tokens * 32 * 4, "hidden": tokens * 4 * 2880 * 2}
        assert all(size <= given[name] for name, size in asked.items())


def test_the_programs_of_the_tests_are_alike_too() -> None:
    old = layer_program(SMALL, former_program(SMALL, 8), "old")
    new = layer_program(SMALL, program(SMALL, 8), "new")
    for tokens in COUNTS:
        assert old.grids(tokens, 132) == new.grids(tokens, 132)
        assert old.scratch_sizes(tokens, 132) == new.scratch_sizes(tokens, 132)
    assert old.packing.digest == new.packing.digest


FORMS = {
    "plain": {},
    "shared": {"shared_dim": 192},
    "biases": {"expert_bias": True, "router_bias": True, "correction_bias": True},
    "shared with biases": {"shared_dim": 64, "expert_bias": True},
    "without a gate": {"activation": "relu", "expert_bias": True},
    "without a gate, shared": {"activation": "relu", "shared_dim": 128},
    "float32": {"dtype": "float32"},
}


@pytest.mark.parametrize("form", FORMS)
def test_packed_bytes_are_what_they_were(form: str) -> None:
    problem = SMALL.replace(num_experts=70, top_k=3, hidden=192, dtype="bfloat16")
    problem = problem.replace(**FORMS[form])
    weights = Weights.random(problem, seed=8)
    wanted = former_pack.pack(problem, weights)
    packed = former.packing(problem).pack(weights)
    assert list(packed) == list(wanted)
    for name, array in packed.items():
        assert (array.shape, array.dtype) == (wanted[name].shape, wanted[name].dtype)
        assert array.tobytes() == wanted[name].tobytes(), name


def test_a_program_without_its_facts() -> None:
    text = former_program(SMALL, 8).replace("choose_tokens", "chosen")
    with pytest.raises(KernelError, match="lacks the fact 'choose_tokens'; build it again"):
        layer_program(SMALL, text, "old")


def of_facts(problem: Problem, **facts: int) -> Program:
    return former.completed(problem, Program(FACTS | facts, {}))


def most_tiles(problem: Problem, tokens: int, **facts: int) -> int:
    return of_facts(problem, **facts).scratch_sizes(tokens, 132)["table"] // 16


@pytest.mark.parametrize("load", ["uniform", "zipf:1.2", "onehot"])
@pytest.mark.parametrize("tokens", [1, 3, 64, 300])
def test_no_routing_has_more_tiles(tokens: int, load: str) -> None:
    counts = pairs_per_expert(QWEN, route_by_load(QWEN, Workload(tokens, load), seed=1)[0])
    for tile in (8, 128):
        for cluster in (1, 2):  # tiles of an expert come in whole clusters
            tiles = int(np.sum(-(-counts // (tile * cluster)))) * cluster
            assert tiles <= most_tiles(QWEN, tokens, tile_n=tile, cluster=cluster)
    assert most_tiles(QWEN, tokens, tile_n=8) == most_tiles(QWEN, tokens, tile_n=8, cluster=1)


def test_buffers_of_a_call() -> None:
    sizes = of_facts(DEEPSEEK, tile_n=8).scratch_sizes(16, 132)
    assert most_tiles(DEEPSEEK, 16, tile_n=8) == 16 * 9
    assert sizes == {
        "logits": 16 * 256 * 4,
        "counters": 258 * 4,
        "lists": 257 * 16 * 4,
        "tiles": 4,
        "table": 144 * 16,
        "hidden": 144 * 8 * 2048 * 2,
        "rows": 16 * 9 * 7168 * 2,
    }


def test_blocks_of_the_streaming_form() -> None:
    made = of_facts(DEEPSEEK, tile_n=8, strips1=256, strips2=448, route_blocks=8)
    assert made.grids(20, 132) == [
        ("moe_route", (8, 2)),
        ("moe_stream_1", (20 * 9, 256)),
        ("moe_stream_2", (20, 448)),
    ]
    assert made.grids(0, 132) == []


def test_products_start_whole_clusters() -> None:
    made = of_facts(QWEN, tile_n=64, cluster=2)
    many = dict(made.grids(1024, 133))  # an odd multiprocessor has no partner
    assert many["moe_product_1"] == many["moe_product_2"] == (132, 1)
    few = dict(made.grids(1, 133))  # 8 experts of one row: 16 tiles
    assert few["moe_product_1"] == (48, 1)
    assert few["moe_product_2"] == (80, 1)
