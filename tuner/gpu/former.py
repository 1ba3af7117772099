"""Programs of ABI 1, which said neither grids nor scratch sizes nor how weights are packed.

Bundles hold them. They are all of one template's, and what they leave out follows from their facts and the
problem: it is given here in the words in which programs say it since.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from tuner.errors import KernelError
from tuner.gpu.pack import Packing
from tuner.gpu.ptx import Grid, Program
from tuner.problem import Problem
from tuner.problem.dtypes import DTYPES

# What a layer launches, in this order: many tokens, or few.
FORMS = (
    ("moe_logits", "moe_choose", "moe_product_1", "moe_product_2", "moe_combine"),
    ("moe_route", "moe_stream_1", "moe_stream_2"),
)
_DENSE = "moe_product_1"
_TABLE_ENTRY_BYTES = 16
_BLOCK = 64  # rows and depth elements of a packed block


def completed(problem: Problem, program: Program) -> Program:
    """The program with its launches, scratch sizes and packing.

    Raises KernelError where a fact is missing.
    """
    try:
        launches = tuple(_launches(problem, program.facts))
        scratch = _scratch(problem, program.facts)
    except KeyError as error:
        raise KernelError(f"GPU program: lacks the fact {error}; build it again") from error
    dense = _DENSE if _DENSE in program.kernels else ""
    return dataclasses.replace(
        program, launches=launches, scratch=scratch, packing=packing(problem), dense=dense
    )


def _shared(problem: Problem) -> int:
    """Experts of the routed ones' width that the shared one is."""
    return problem.shared_dim // problem.expert_dim


def _cluster(facts: Mapping[str, int]) -> int:
    """Blocks of a cluster: 1 where a program names none, as the streaming form and the first programs."""
    return facts.get("cluster", 1)


def _most_tiles(problem: Problem, facts: Mapping[str, int]) -> str:
    """Tiles that a call may have at most, whatever the routing."""
    cluster, experts = _cluster(facts), problem.num_experts + _shared(problem)
    pairs = f"tokens * {problem.top_k + _shared(problem)}"
    return f"{cluster} * min({pairs}, {pairs} // {cluster * facts['tile_n']} + {experts})"


def _scratch(problem: Problem, facts: Mapping[str, int]) -> dict[str, str]:
    experts, k = problem.num_experts + _shared(problem), problem.top_k + _shared(problem)
    tiles, element = _most_tiles(problem, facts), DTYPES[problem.dtype].bytes
    return {
        "logits": f"tokens * {problem.num_experts * 4}",
        "counters": str((experts + 1) * 4),
        "lists": f"tokens * {experts * 4}",
        "tiles": "4",
        "table": f"{tiles} * {_TABLE_ENTRY_BYTES}",
        "hidden": f"{tiles} * {facts['tile_n'] * problem.expert_dim * element}",
        "rows": f"tokens * {k * problem.hidden * element}",
    }


def _launches(problem: Problem, facts: Mapping[str, int]) -> Iterator[Grid]:
    routed = _share("tokens", facts["route_tokens"])
    if "strips1" in facts:
        pairs = f"tokens * {problem.top_k + _shared(problem)}"
        yield Grid("moe_route", str(facts["route_blocks"]), routed)
        yield Grid("moe_stream_1", pairs, str(facts["strips1"]))
        yield Grid("moe_stream_2", "tokens", str(facts["strips2"]))
        return
    tiles, cluster = _most_tiles(problem, facts), _cluster(facts)
    yield Grid("moe_logits", routed, str(-(-problem.num_experts // facts["route_experts"])))
    yield Grid("moe_choose", _share("tokens", facts["choose_tokens"]), "1")
    for number in (1, 2):
        at_once = f"multiprocessors * {facts[f'blocks{number}']} // {cluster} * {cluster}"
        blocks = f"min({tiles} * {facts[f'pieces{number}']}, {at_once})"
        yield Grid(f"moe_product_{number}", blocks, "1")
    yield Grid("moe_combine", _share(f"tokens * {problem.hidden}", facts["combine_elements"]), "1")


def _share(count: str, of: int) -> str:
    return f"({count} + {of - 1}) // {of}"


def packing(problem: Problem) -> Packing:
    """Blocks of 64 rows x 64 depth elements as wgmma reads them, whatever the tunables."""
    return Packing((*_matrices(problem), *_vectors(problem)))


def _matrices(problem: Problem) -> Iterator[str]:
    depth, features, dtype = problem.hidden, problem.expert_dim, problem.dtype
    experts = problem.num_experts + _shared(problem)
    rows = (2 if problem.gated else 1) * features // _BLOCK
    product1 = f"product1 {dtype} {experts} {rows} {depth // _BLOCK} {_BLOCK} {_BLOCK}"
    up = _of_experts(problem, "up")
    if problem.gated:  # rows of gate and up in turns of 8
        yield (
            f"{product1} = {_of_experts(problem, 'gate')} | {up} | each | stack 2 | "
            f"reshape 2 {features // 32} 4 8 {depth // _BLOCK} 8 8 | swizzle 3 5 | transpose 1 4 2 0 3 5 6"
        )
    else:
        yield f"{product1} = {up} | {_in_blocks(features, depth)}"
    shape = f"{experts} {depth // _BLOCK} {features // _BLOCK} {_BLOCK} {_BLOCK}"
    down = _of_experts(problem, "down")
    yield f"product2 {dtype} {shape} = {down} | {_in_blocks(depth, features)}"
    whole = -(-problem.num_experts // _BLOCK) * _BLOCK
    yield f"router {dtype} {whole} {depth} = take router | pad 0 {whole}"


def _of_experts(problem: Problem, name: str) -> str:
    """A matrix of all experts; a shared one is cut into experts of the routed ones' width."""
    if not problem.shared_dim:
        return f"take {name}"
    shared, width, depth = _shared(problem), problem.expert_dim, problem.hidden
    cut = f"reshape {shared} {width} {depth}"
    if name == "down":
        cut = f"reshape {depth} {shared} {width} | transpose 1 0 2"
    return f"take {name} | take shared_{name} | {cut} | join"


def _in_blocks(rows: int, depth: int) -> str:
    """A matrix without a gate, each 16 rows in the order that gives one thread 4 neighbours."""
    return (
        f"each | reshape {rows // 16} 4 2 2 {depth} | transpose 0 2 1 3 4 | "
        f"reshape {rows // _BLOCK} 8 8 {depth // _BLOCK} 8 8 | swizzle 2 4 | transpose 0 3 1 2 4 5"
    )


def _vectors(problem: Problem) -> Iterator[str]:
    """Biases in float32, those of shared experts 0; one 0 for what the problem does not have."""
    experts, shared = problem.num_experts, _shared(problem)
    for name, array, there in (
        ("router_bias", "router_bias", problem.router_bias),
        ("correction", "correction_bias", problem.correction_bias),
    ):
        yield f"{name} float32 " + (f"{experts} = take {array}" if there else "1 = zeros 1")
    for name, length, there in (
        ("gate_bias", problem.expert_dim, problem.gated),
        ("up_bias", problem.expert_dim, True),
        ("down_bias", problem.hidden, True),
    ):
        more = f" | zeros {shared} {length} | join" if shared else ""
        line = f"{experts + shared} {length} = take {name}{more}"
        yield f"{name} float32 " + (line if there and problem.expert_bias else "1 = zeros 1")
