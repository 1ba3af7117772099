"""The picture of a side by side: how many times as fast as the best peer, by number of tokens."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peer_page import best, by_dtype, cells
from peer_rows import Row

from tuner.errors import UsageError
from tuner.peers.compare import PeerRow

# A model's points stand this much (as a factor on the log axis) beside the next one's.
_BESIDE = 1.06
_TICKS = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12, 16)
_KINDS = (".svg", ".png", ".pdf")
_MARKERS = "osD^vP*Xh<>p"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws to a file whose name says its kind: a panel for each data type (across) and load (down),
    a line for each model.

    Raises:
        UsageError: there is nothing to draw, or what `check` raises.
    """
    check(path)
    rows = [row for row in rows if not row.peer.refused]
    if not rows:
        raise UsageError(f"{path}: no peer ran, so there is nothing to draw; measure one that runs")
    plt = importlib.import_module("matplotlib.pyplot")
    dtypes = list(by_dtype(rows))
    loads = list(dict.fromkeys(row.peer.load for row in rows))
    shape = (len(loads), len(dtypes))
    size = (0.6 + 5.2 * shape[1], 1.4 + 3.3 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, sharex=True, sharey=True, squeeze=False)
    styles = _styles(plt, rows)
    for down, load in enumerate(loads):
        for across, dtype in enumerate(dtypes):
            own = [row for row in rows if (row.dtype, row.peer.load) == (dtype, load)]
            _panel(axes[down][across], own, styles)
            axes[down][across].set_title(f"{dtype}, {load}", fontsize=10)
    _label(axes, rows)
    _legend(figure, axes, styles)
    dated = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, bbox_inches="tight", dpi=150, metadata=dated)
    plt.close(figure)


def check(path: Path) -> None:
    """Raises UsageError where matplotlib is not installed or the name says no kind of file."""
    if path.suffix not in _KINDS:
        raise UsageError(f"{path}: no kind of picture; use a name that ends in {', '.join(_KINDS)}")
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        mend = "pip install 'moetune[compare]', or leave --plot out"
        raise UsageError(f"--plot: matplotlib is not installed; {mend}") from None
    matplotlib.use("Agg")
    # The same rows make the same file.
    matplotlib.rcParams["svg.hashsalt"] = "moetune"


def _styles(plt: Any, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each model: the same in all panels."""
    models = list(dict.fromkeys(row.model for row in rows))
    colours = plt.get_cmap("tab10").colors
    return {
        model: {"color": colours[n % len(colours)], "marker": _MARKERS[n % len(_MARKERS)]}
        for n, model in enumerate(models)
    }


def _panel(axes: Any, rows: Sequence[Row], styles: dict[str, dict[str, Any]]) -> None:
    axes.axhline(1, color="black", linewidth=1)
    axes.grid(True, which="major", alpha=0.3)
    for number, (model, style) in enumerate(styles.items()):
        points = _points([row for row in rows if row.model == model])
        if not points:
            continue
        shift = _BESIDE ** (number - (len(styles) - 1) / 2)
        ratios = [p.ratio for p in points]
        low = [p.ratio - p.ratio_low for p in points]
        high = [p.ratio_high - p.ratio for p in points]
        axes.errorbar(
            [p.tokens * shift for p in points], ratios, yerr=[low, high], label=model,
            linewidth=1.2, elinewidth=1.2, capsize=2.5, markersize=4.5, **style,
        )  # fmt: skip


def _points(rows: Sequence[Row]) -> list[PeerRow]:
    """The best peer of each workload, by tokens."""
    return [peer for peer in map(best, cells(rows)) if peer]


def _label(axes: Any, rows: Sequence[Row]) -> None:
    tokens = sorted({row.peer.tokens for row in rows})
    first = axes[0][0]
    first.set_xscale("log", base=2)
    first.set_yscale("log", base=2)
    first.set_xticks(tokens, [str(t) for t in tokens])
    low, high = first.get_ylim()
    low, high = min(low, 0.9), max(high, 1.3)
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    first.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    first.set_ylim(low, high)
    for panel in axes.flat:
        panel.minorticks_off()
    for panel in axes[-1]:
        panel.set_xlabel("tokens")
    for panel in axes[:, 0]:
        panel.set_ylabel("time of the best peer / ours")


def _legend(figure: Any, axes: Any, styles: dict[str, dict[str, Any]]) -> None:
    found: dict[str, Any] = {}
    for panel in axes.flat:
        handles, labels = panel.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    names = [model for model in styles if model in found]
    figure.tight_layout()
    figure.legend(
        [found[name] for name in names], names, loc="upper center", bbox_to_anchor=(0.5, 0),
        ncols=min(3, len(names)), fontsize=9, frameon=False,
    )  # fmt: skip
