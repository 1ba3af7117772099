from __future__ import annotations

import numpy as np
import pytest

from tuner.gpu_layer import grids, most_tiles, scratch_sizes
from tuner.problem import Problem
from tuner.workload import Workload, pairs_per_expert, route_by_load

QWEN = Problem.preset("qwen3-30b-a3b").replace(dtype="bfloat16")
DEEPSEEK = Problem.preset("deepseek-v3").replace(dtype="bfloat16")


@pytest.mark.parametrize("load", ["uniform", "zipf:1.2", "onehot"])
@pytest.mark.parametrize("tokens", [1, 3, 64, 300])
def test_no_routing_has_more_tiles(tokens: int, load: str) -> None:
    counts = pairs_per_expert(QWEN, route_by_load(QWEN, Workload(tokens, load), seed=1)[0])
    for tile in (8, 128):
        assert int(np.sum(-(-counts // tile))) <= most_tiles(QWEN, tokens, tile)


def test_buffers_of_a_call() -> None:
    sizes = scratch_sizes(DEEPSEEK, tokens=16, tile_n=8)
    assert most_tiles(DEEPSEEK, 16, 8) == 16 * 9
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
