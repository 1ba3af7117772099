"""GPU programs that say how they are launched, and compute nothing."""

from __future__ import annotations

from pathlib import Path

from tuner import Problem, Selection
from tuner.target import named

# What each kernel of a layer is given.
PARAMS = {
    "moe_logits": "x router router_bias logits counters tokens",
    "moe_choose": "logits correction indices weights lists counters table tiles tokens routed",
    "moe_product_1": "product1 gate_bias up_bias x lists table tiles hidden tokens",
    "moe_product_2": "product2 down_bias hidden lists table tiles rows tokens",
    "moe_combine": "rows weights y tokens",
}
READ_PARAMS = "source bytes sink"
PROBE = f"""\
//// probe abi 1 piece_bytes 32768 blocks 5
//// kernel moe_read_01234567 256 0 {READ_PARAMS}
.visible .entry moe_read_01234567(
//// end
"""
TILES = {"small": 8, "large": 64}
SMALL = Problem(hidden=128, expert_dim=64, num_experts=8, top_k=2, dtype="float16", name="small")


def _identity(problem: Problem, abi: int) -> dict[str, int]:
    return {
        "abi": abi, "hidden": problem.hidden, "expert_dim": problem.expert_dim,
        "experts": problem.num_experts, "top_k": problem.top_k,
        "shared": problem.shared_dim // problem.expert_dim,
    }  # fmt: skip


def _facts(facts: dict[str, int]) -> str:
    return "//// layer " + " ".join(f"{name} {value}" for name, value in facts.items())


def _kernels(tile_n: int) -> list[str]:
    """Names of entries end with a digest, as the compiler has them."""
    lines = []
    for name, params in PARAMS.items():
        entry = f"{name}_{tile_n:08x}"
        shared = 65536 if name.startswith("moe_product") else 0
        header = f"//// kernel {entry} 256 {shared} {params}"
        lines += [header, f".visible .entry {entry}(", "//// end"]
    return lines


def former_program(problem: Problem, tile_n: int, **more: int) -> str:
    """The text of a program of ABI 1, which says neither grids nor sizes nor packing."""
    facts = _identity(problem, 1) | {
        "tile_n": tile_n, "route_tokens": 16, "route_experts": 8, "choose_tokens": 8,
        "combine_elements": 256, "blocks1": 2, "blocks2": 1, "pieces1": 2, "pieces2": 2,
    }  # fmt: skip
    return "\n".join([_facts(facts | more), *_kernels(tile_n)]) + "\n"


def program(problem: Problem, tile_n: int, abi: int = 2) -> str:
    """The text of a program for a gated problem without biases and shared experts: the same kernels."""
    d, f, e, k = problem.hidden, problem.expert_dim, problem.num_experts, problem.top_k
    tiles = f"1 * min(tokens * {k}, tokens * {k} // {tile_n} + {e})"
    lines = [
        _facts(_identity(problem, abi) | {"tile_n": tile_n}),
        f"//// pack product1 {problem.dtype} {e} {f // 32} {d // 64} 64 64 = "
        f"take gate | take up | each | stack 2 | "
        f"reshape 2 {f // 32} 4 8 {d // 64} 8 8 | swizzle 3 5 | transpose 1 4 2 0 3 5 6",
        f"//// pack product2 {problem.dtype} {e} {d // 64} {f // 64} 64 64 = take down | each | "
        f"reshape {d // 16} 4 2 2 {f} | transpose 0 2 1 3 4 | reshape {d // 64} 8 8 {f // 64} 8 8 | "
        "swizzle 2 4 | transpose 0 3 1 2 4 5",
        f"//// pack router {problem.dtype} 64 {d} = take router | pad 0 64",
        *(f"//// pack {name} float32 1 = zeros 1" for name in ZEROS),
        f"//// scratch logits = tokens * {e * 4}",
        f"//// scratch counters = {(e + 1) * 4}",
        f"//// scratch lists = tokens * {e * 4}",
        "//// scratch tiles = 4",
        f"//// scratch table = {tiles} * 16",
        f"//// scratch hidden = {tiles} * {tile_n * f * 2}",
        f"//// scratch rows = tokens * {k * d * 2}",
        f"//// launch moe_logits = (tokens + 15) // 16 | {-(-e // 8)}",
        "//// launch moe_choose = (tokens + 7) // 8 | 1",
        f"//// launch moe_product_1 = min({tiles} * 2, multiprocessors * 2) | 1",
        f"//// launch moe_product_2 = min({tiles} * 2, multiprocessors) | 1",
        f"//// launch moe_combine = (tokens * {d} + 255) // 256 | 1",
        "//// dense moe_product_1",
        *_kernels(tile_n),
    ]
    return "\n".join(lines) + "\n"


ZEROS = ("router_bias", "correction", "gate_bias", "up_bias", "down_bias")


class Two:
    """A Catalogue of two programs: `small` serves up to 8 tokens, `large` more."""

    def __init__(self, folder: Path, problem: Problem = SMALL) -> None:
        self.problem, self._folder = problem, folder
        for name, tile in TILES.items():
            (folder / f"{name}.ptx").write_text(program(problem, tile))

    def select(self, tokens: int, load: str, pack: str | None) -> Selection:
        name = "small" if tokens <= 8 else "large"
        return Selection(
            template="moe_gpu", variant=name, config={}, pack="", match="exact", reason="tuned",
            distance=0.0, evidence={"tokens": 8 if name == "small" else 64}, tokens=tokens,
            load=load, target=named("nvidia-h100"),
        )  # fmt: skip

    def binary(self, selection: Selection) -> Path:
        return self._folder / f"{selection.variant}.ptx"
