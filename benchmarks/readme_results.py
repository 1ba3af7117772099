"""The table and the picture at the head of README.md, from the measurements in benchmarks/data.

    python benchmarks/readme_results.py --plot docs/pictures/peers.svg

Measures nothing: the rows are those of docs/results/models.md and docs/results/gpu.md.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from peer_page import best, cells, markdown
from peer_plot import check
from peer_rows import Row, RowsFile

DATA = Path(__file__).parent / "data"
# Up to so many tokens a layer waits for its weights, beyond for its multiplications.
FEW = 16
TITLES = ["machine", "type", "against", f"1 to {FEW} tokens", "more tokens"]
_TICKS = (1, 1.25, 1.5, 2, 3, 4)


def _any(row: Row) -> bool:
    return not row.peer.refused


def _whole(row: Row) -> bool:
    return row.peer.form == "whole layer"


def _part(row: Row) -> bool:
    return row.peer.form == "products alone"


@dataclass(frozen=True)
class Group:
    """Measurements that make one line of the table: a file's rows of one data type, some of its peers."""

    file: str
    dtype: str
    machine: str
    against: str
    wanted: Callable[[Row], bool] = _any

    def ratios(self) -> list[tuple[int, float]]:
        """Of every model and load: the number of tokens, and the best peer's time / ours."""
        rows = RowsFile(DATA / self.file).rows
        own = [row for row in rows if row.dtype == self.dtype and self.wanted(row)]
        peers = [peer for peer in map(best, cells(own)) if peer]
        return [(peer.tokens, peer.ratio) for peer in peers]


GROUPS = (
    Group("peers-models-znver4.json", "float32", "AMD Zen 4, 2 cores",
          "NumPy, PyTorch, ONNX Runtime"),
    Group("peers-models-znver4.json", "bfloat16", "AMD Zen 4, 2 cores", "PyTorch"),
    Group("peers-gpu-h100.json", "bfloat16", "NVIDIA H100", "a whole layer in Triton", _whole),
    Group("peers-gpu-h100.json", "bfloat16", "NVIDIA H100",
          "products alone: torch `grouped_mm`, Triton", _part),
)  # fmt: skip


def table(groups: Sequence[Group] = GROUPS) -> str:
    """One line for each group: median, least and greatest ratio, and of how many cells."""
    lines = []
    for group in groups:
        ratios = group.ratios()
        few = [ratio for tokens, ratio in ratios if tokens <= FEW]
        many = [ratio for tokens, ratio in ratios if tokens > FEW]
        lines.append([group.machine, group.dtype, group.against, spread(few), spread(many)])
    return "\n".join(markdown(TITLES, 3, lines))


def spread(ratios: Sequence[float]) -> str:
    middle = f"**{median(ratios):.2f}**"
    return f"{middle} ({min(ratios):.2f} to {max(ratios):.2f}), {len(ratios)} cells"


def plot(path: Path, groups: Sequence[Group] = GROUPS[:3]) -> None:
    """A panel for each group: the median and the range over models and loads, by tokens."""
    check(path)
    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams["svg.fonttype"] = "none"  # text stays text
    figure, axes = plt.subplots(1, len(groups), figsize=(10, 2.9), sharey=True)
    for panel, group in zip(axes, groups, strict=True):
        _draw(panel, group)
    axes[0].set_ylabel("best peer's time / ours")
    figure.tight_layout()
    dated = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=dated)
    plt.close(figure)


def _draw(panel: Any, group: Group) -> None:
    by_tokens = _by_tokens(group.ratios())
    tokens = list(by_tokens)
    panel.fill_between(
        tokens, [min(r) for r in by_tokens.values()], [max(r) for r in by_tokens.values()],
        color="#3f51b5", alpha=0.18, linewidth=0,
    )  # fmt: skip
    middle = [median(r) for r in by_tokens.values()]
    panel.plot(tokens, middle, color="#3f51b5", marker="o", markersize=4)
    panel.axhline(1, color="black", linewidth=1)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set_xticks(tokens, [_short(t) for t in tokens], fontsize=8)
    panel.set_yticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    panel.minorticks_off()
    panel.grid(True, alpha=0.3)
    panel.set_xlabel("tokens")
    title = f"{group.machine}, {group.dtype}\nagainst {group.against}"
    panel.set_title(title, fontsize=9)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)


def _by_tokens(ratios: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for tokens, ratio in sorted(ratios):
        found.setdefault(tokens, []).append(ratio)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the picture, too")
    options = parser.parse_args()
    print(table())
    if options.plot:
        plot(options.plot)


if __name__ == "__main__":
    main()
