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


def program(problem: Problem, tile_n: int, abi: int = 1) -> str:
    """The text of a program; names of entries end with a digest, as the compiler has them."""
    facts = {
        "abi": abi, "hidden": problem.hidden, "expert_dim": problem.expert_dim,
        "experts": problem.num_experts, "top_k": problem.top_k,
        "shared": problem.shared_dim // problem.expert_dim, "tile_n": tile_n, "route_tokens": 16,
        "route_experts": 8, "choose_tokens": 8, "combine_elements": 256, "blocks1": 2, "blocks2": 1,
        "pieces1": 2, "pieces2": 2,
    }  # fmt: skip
    lines = ["//// layer " + " ".join(f"{name} {value}" for name, value in facts.items())]
    for name, params in PARAMS.items():
        entry = f"{name}_{tile_n:08x}"
        shared = 65536 if name.startswith("moe_product") else 0
        header = f"//// kernel {entry} 256 {shared} {params}"
        lines += [header, f".visible .entry {entry}(", "//// end"]
    return "\n".join(lines) + "\n"


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
