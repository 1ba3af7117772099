"""Canvas: what figures are drawn on, and how they become SVG. The only file that knows matplotlib.

Colours are variables of the page's style, so one drawing serves a light and a dark page; the texts are
texts. The same numbers make the same drawing.
"""

from __future__ import annotations

import html
import io
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

matplotlib.use("Agg")

__all__ = ["Axes", "Canvas", "Mark", "logarithmic", "nearby", "plain_numbers", "renamed", "svg"]

_WIDE, _HIGH = 4.6, 3.4  # inches
# A colour that the drawing has -> the variable that stands for it in the page.
_VARIABLES = {
    "#010101": "--ink", "#020202": "--line", "#030303": "--winner", "#040404": "--default",
    "#050505": "--peer-1", "#060606": "--peer-2", "#070707": "--peer-3", "#080808": "--faint",
    "#090909": "--peer-4", "#0a0a0a": "--paper",
}  # fmt: skip
INK, LINE, WINNER, DEFAULT, PEER_1, PEER_2, PEER_3, FAINT, PEER_4, PAPER = _VARIABLES
# Of lines that stand beside each other, with their marks.
LINES = ((PEER_1, "^"), (PEER_2, "v"), (PEER_3, "s"), (PEER_4, "D"))
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "moetune", "font.size": 10.5, "text.color": INK,
    "axes.labelcolor": INK, "axes.edgecolor": LINE, "xtick.color": INK, "ytick.color": INK,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": LINE, "grid.linewidth": 0.5,
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9.5,
    "legend.handlelength": 1.6, "legend.columnspacing": 1.2, "lines.linewidth": 1.6,
    "lines.markersize": 5,
}  # fmt: skip
# Settings of matplotlib are the process's.
_lock = threading.Lock()


class Mark(NamedTuple):
    """A point with the text that a pointer on it brings up."""

    x: float
    y: float
    says: str


class Canvas:
    """Axes to draw on, and the texts that a pointer on their parts brings up."""

    def __init__(self, figure: Figure) -> None:
        self.figure, self.axes = figure, figure.subplots()
        self.hints: list[str] = []
        self.marked: list[list[str]] = []

    def hint(self, artist: Any, text: str) -> None:
        """Let a pointer on what was drawn bring up a text."""
        artist.set_gid(f"hint{len(self.hints)}")
        self.hints.append(text)

    def marks(self, marks: Sequence[Mark], **look: Any) -> None:
        """Marks of one look, each with its text; ``label`` names them, and ``linestyle`` joins them.

        They must lie within the axes.
        """
        xs, ys = [mark.x for mark in marks], [mark.y for mark in marks]
        (line,) = self.axes.plot(xs, ys, **{"linestyle": "", **look})
        line.set_gid(f"marks{len(self.marked)}")
        self.marked.append([mark.says for mark in marks])

    def legend(self, columns: int = 3) -> None:
        """Name the lines and marks that have a label, below the axes."""
        self.figure.legend(loc="outside lower center", ncols=columns)


def svg(name: str, draw: Callable[[Canvas], None], height: float = _HIGH) -> str:
    """The drawing as an element of a page, its ids beginning with its name; ``height`` in inches."""
    with _lock, matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]  # its keys are a Literal
        figure = Figure(figsize=(_WIDE, height), layout="constrained")
        canvas = Canvas(figure)
        draw(canvas)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _fit(_hinted(file.getvalue(), canvas), name)


def logarithmic(axis: Any, ticks: Sequence[int]) -> None:
    """Numbers of tokens, by octaves."""
    axis.axes.set_xscale("log", base=2)
    axis.set_ticks(ticks, [str(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def plain_numbers(axis: Any, values: Sequence[float]) -> None:
    """Marks of a logarithmic axis as numbers without powers, the closer the fewer decades there are."""
    span = max(values) / min(values)
    subs = (
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if span < 10 else (1.0, 2.0, 5.0) if span < 100 else (1.0,)
    )
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def nearby(axis: Any, marks: Sequence[float]) -> None:
    """Marks of a logarithmic axis around 1: those given, and no others."""
    axis.set_major_locator(FixedLocator(marks))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _hinted(text: str, canvas: Canvas) -> str:
    """Browsers show the title of what the pointer is on."""
    for number, hint in enumerate(canvas.hints):
        opened = f'<g id="hint{number}">'
        text = text.replace(opened, f"{opened}\n{_title(hint)}", 1)
    for number, hints in enumerate(canvas.marked):
        before, opened, after = text.partition(f'<g id="marks{number}">')
        text = before + opened + _titled(after, hints)
    return text


def _titled(text: str, hints: Sequence[str]) -> str:
    """Each mark is a use of one path."""
    left = iter(hints)
    made = re.compile(r"<use ([^>]*)/>")
    return made.sub(lambda use: f"<use {use[1]}>{_title(next(left))}</use>", text, len(hints))


def _title(hint: str) -> str:
    return f"<title>{html.escape(hint)}</title>"


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
