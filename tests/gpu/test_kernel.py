from __future__ import annotations

import numpy as np
import pytest

from tuner.gpu.kernel import grids, most_tiles, scratch_sizes
from tuner.problem import Problem
from tuner.problem.workload import Workload, pairs_per_expert, route_by_load

QWEN = Problem.preset("qwen3-30b-a3b").replace(dtype="bfloat16")
DEEPSEEK = Problem.preset("deepseek-v3").replace(dtype="bfloat16")


@pytest.mark.parametrize("load", ["uniform", "zipf:1.2", "onehot"])
@pytest.mark.parametrize("tokens", [1, 3, 64, 300])
def test_no_routing_has_more_tiles(tokens: int, load: str) -> None:
    counts = pairs_per_expert(QWEN, route_by_load(QWEN, Workload(tokens, load), seed=1)[0])
    for tile in (8, 128):
        for cluster in (1, 2):  # tiles of an expert come in whole clusters
            tiles = int(np.sum(-(-counts // (tile * cluster)))) * cluster
            facts = {"tile_n": tile, "cluster": cluster}
            assert tiles <= most_tiles(QWEN, facts, tokens)
    assert most_tiles(QWEN, {"tile_n": 8}, tokens) == most_tiles(
        QWEN, {"tile_n": 8, "cluster": 1}, tokens
    )


def test_buffers_of_a_call() -> None:
    sizes = scratch_sizes(DEEPSEEK, {"tile_n": 8}, tokens=16)
    assert most_tiles(DEEPSEEK, {"tile_n": 8}, 16) == 16 * 9
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
    facts = {"strips1": 256, "strips2": 448, "route_blocks": 8, "route_tokens": 16}
    assert grids(DEEPSEEK, facts, 20, 132) == {
        "moe_route": (8, 2),
        "moe_stream_1": (20 * 9, 256),
        "moe_stream_2": (20, 448),
    }
    assert grids(DEEPSEEK, facts, 0, 132) == {}


def test_products_start_whole_clusters() -> None:
    facts = {"tile_n": 64, "cluster": 2, "route_tokens": 16, "route_experts": 8, "choose_tokens": 8}
    facts |= {"combine_elements": 2048, "pieces1": 3, "pieces2": 5, "blocks1": 1, "blocks2": 1}
    many = grids(QWEN, facts, 1024, 133)  # an odd multiprocessor has no partner
    assert many["moe_product_1"] == many["moe_product_2"] == (132, 1)
    few = grids(QWEN, facts, 1, 133)  # 8 experts of one row: 16 tiles
    assert few["moe_product_1"] == (48, 1)
    assert few["moe_product_2"] == (80, 1)
