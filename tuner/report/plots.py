"""Figures: what was measured, as SVG to stand in a page. The only file of the package that knows matplotlib.

Colours are variables of the page's style, so one drawing serves a light and a dark page; the texts are
texts. The same numbers make the same drawing.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

matplotlib.use("Agg")

_SIZE_INCHES = (4.6, 3.1)
# A colour that the drawing has -> the variable that stands for it in the page.
_VARIABLES = {
    "#010101": "--ink", "#020202": "--line", "#030303": "--winner", "#040404": "--default",
    "#050505": "--peer-1", "#060606": "--peer-2", "#070707": "--peer-3", "#080808": "--faint",
}  # fmt: skip
_INK, _LINE, _WINNER, _DEFAULT, *_PEERS, _FAINT = _VARIABLES
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "moetune", "font.size": 10.5, "text.color": _INK,
    "axes.labelcolor": _INK, "axes.edgecolor": _LINE, "xtick.color": _INK, "ytick.color": _INK,
    "xtick.labelcolor": _INK, "ytick.labelcolor": _INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": _LINE, "grid.linewidth": 0.5,
    "legend.frameon": False, "legend.fontsize": 10, "lines.linewidth": 1.6, "lines.markersize": 5,
}  # fmt: skip
_MARKERS = {
    "ok": "o",
    "slow": "v",
    "wrong": "X",
    "crash": "P",
    "timeout": "s",
    "compile": "D",
    "invalid": "^",
}
# Settings of matplotlib are the process's.
_lock = threading.Lock()


class Point(NamedTuple):
    """A workload's time: number of tokens, ns."""

    tokens: int
    ns: float


class TrialPoint(NamedTuple):
    """A trial of a history: its status, and its time over the default's where it was timed."""

    status: str
    ratio: float | None


def times(
    winner: Sequence[Point], default: Sequence[Point], peers: Mapping[str, Sequence[Point]]
) -> str:
    """Time of one call against tokens, both logarithmic."""

    def draw(axes: Axes) -> None:
        shown = {"default": (default, _DEFAULT, "s"), "winner": (winner, _WINNER, "o")}
        for (name, points), colour in zip(peers.items(), _PEERS, strict=False):
            shown[name] = (points, colour, "^")
        for name, (points, colour, marker) in shown.items():
            xs, ys = [p.tokens for p in points], [p.ns / 1e6 for p in points]
            axes.plot(xs, ys, color=colour, marker=marker, label=name)
        _logarithmic(axes.xaxis, sorted({p.tokens for p in winner}))
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis, [p.ns for points, *_ in shown.values() for p in points])
        axes.set_xlabel("tokens of one call")
        axes.set_ylabel("time, ms")
        axes.legend()

    return _svg("times", draw)


def roofline(
    points: Mapping[int, tuple[float, float]], roofs: Mapping[str, float], read_gb_s: float
) -> str:
    """Where the winners stand: tokens -> (FLOP per byte, GFLOP/s), under the ceilings."""

    def draw(axes: Axes) -> None:
        reach = [x for x, _ in points.values()] + [roof / read_gb_s for roof in roofs.values()]
        xs = [min(reach) / 2 * (max(reach) * 8 / min(reach)) ** (n / 100) for n in range(101)]
        for number, (name, roof) in enumerate(roofs.items()):
            ys = [min(roof, x * read_gb_s) for x in xs]
            axes.plot(xs, ys, color=_FAINT, linestyle=("-", "--")[number % 2])
            axes.annotate(f"{name} {roof:.0f} GFLOP/s", (xs[-1], roof), xytext=(0, 4), ha="right",
                          textcoords="offset points")  # fmt: skip
        for tokens, (x, y) in points.items():
            axes.plot([x], [y], color=_WINNER, marker="o", linestyle="")
            axes.annotate(f"{tokens}", (x, y), xytext=(4, -10), textcoords="offset points")
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_numbers(axes.xaxis, xs)
        _plain_numbers(axes.yaxis, [*(y for _, y in points.values()), *roofs.values()])
        axes.set_xlabel(f"FLOP per byte (read {read_gb_s:.1f} GB/s)")
        axes.set_ylabel("GFLOP/s")

    return _svg("roofline", draw)


def importances(values: Mapping[str, float]) -> str:
    """Shares of the importance of parameters, the largest on top."""

    def draw(axes: Axes) -> None:
        names = list(values)[:10][::-1]
        axes.barh(names, [100 * values[name] for name in names], color=_WINNER, height=0.6)
        axes.set_xlabel("share of the importance, %")
        axes.grid(False, axis="y")

    return _svg("importances", draw)


def history(trials: Sequence[TrialPoint]) -> str:
    """Trials in their order by speed over the default's; what failed stands at the bottom."""

    def draw(axes: Axes) -> None:
        for status, marker in _MARKERS.items():
            own = [
                (n, 1 / t.ratio if t.ratio else 0.0)
                for n, t in enumerate(trials, 1)
                if t.status == status
            ]
            if own:
                colour = _WINNER if status == "ok" else _DEFAULT
                xs, ys = zip(*own, strict=True)
                axes.plot(
                    xs,
                    ys,
                    color=colour,
                    marker=marker,
                    linestyle="",
                    label=f"{status} ({len(own)})",
                )
        axes.axhline(1.0, color=_FAINT, linewidth=1)
        axes.set_ylim(0, 1.08 * max(1.0, *(1 / t.ratio for t in trials if t.ratio)))
        axes.set_xlabel("trial")
        axes.set_ylabel("speed / default's")
        axes.legend(loc="lower right", ncols=2)

    return _svg("history", draw)


def _logarithmic(axis: Any, ticks: Sequence[int]) -> None:
    axis.axes.set_xscale("log", base=2)
    axis.set_ticks(ticks, [str(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _plain_numbers(axis: Any, values: Sequence[float]) -> None:
    """Marks of a logarithmic axis as numbers without powers, the closer the fewer decades there are."""
    span = max(values) / min(values)
    subs = (
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 10 else (1.0, 2.0, 5.0) if span < 100 else (1.0,)
    )
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """The drawing as an element of a page, its ids beginning with its name."""
    with _lock, matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _fit(file.getvalue(), name)


def _fit(text: str, name: str) -> str:
    """Without what only a file needs, with the page's colours, as wide as there is room."""
    text = text[text.index("<svg") :]
    text = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.S
    )
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    text = renamed(text, name)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()


def renamed(svg: str, name: str) -> str:
    """A drawing whose ids, and what refers to them, begin with another name."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r"(url\(|href=\")#", rf"\1#{name}-", svg)
