"""Figure of the roofline: where the winners stand under the ceilings of their machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from tuner.report.plots import canvas as plots
from tuner.report.plots.canvas import Canvas, Mark

# Places of a label beside its mark, in points: the first that is free is taken.
_PLACES = tuple(
    itertools.chain.from_iterable(
        ((7 * n, -4), (7 * n, 8 * n), (-7 * n, 8 * n), (7 * n, -12 * n), (-7 * n, -12 * n))
        for n in (1, 2, 3)
    )
)
# Of a letter, at the size of the figure's text.
_LETTER = (6.2, 11.0)
# GFLOP/s from which the axis counts in TFLOP/s.
_TERA = 10_000.0


class RoofPoint(NamedTuple):
    """A winner: its label, FLOP per byte, GFLOP/s, whether its weights were cold, and its text."""

    label: str
    intensity: float
    gflop_s: float
    cold: bool
    says: str


class Roof(NamedTuple):
    """A ceiling: what it is called, in GFLOP/s or GB/s."""

    name: str
    rate: float


def roofline(points: Sequence[RoofPoint], peak: Roof | None, memory: Roof) -> str:
    """Winners under the bandwidth of the memory and, where it is known, the peak of the layer's own type."""
    tera = max([p.gflop_s for p in points] + ([peak.rate] if peak else [])) >= _TERA
    unit, scale = ("TFLOP/s", 1e-3) if tera else ("GFLOP/s", 1.0)
    points = [p._replace(gflop_s=scale * p.gflop_s) for p in points]
    peak = peak and Roof(f"{peak.name} {scale * peak.rate:.0f} {unit}", scale * peak.rate)
    ascent = scale * memory.rate

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        xs = _reach(points, peak, ascent)
        ys = [min(peak.rate if peak else math.inf, x * ascent) for x in xs]
        axes.plot(xs, ys, color=plots.FAINT)
        axes.set_xscale("log")
        axes.set_yscale("log")
        levels = [*(p.gflop_s for p in points), *([peak.rate] if peak else [])]
        axes.set_xlim(xs[0], xs[-1])
        axes.set_ylim(min(*levels, ys[0]) / 1.5, max(*levels, ys[-1] if peak is None else 0) * 2)
        plots.plain_numbers(axes.xaxis, xs)
        plots.plain_numbers(axes.yaxis, levels if len(set(levels)) > 1 else [levels[0], ys[-1]])
        for cold, name in ((True, "weights from memory"), (False, "weights in the caches")):
            _marks(canvas, [p for p in points if p.cold == cold], cold, name)
        axes.set_xlabel(f"FLOP per byte ({memory.name} {memory.rate:.0f} GB/s)")
        axes.set_ylabel(unit)
        canvas.legend()
        _labels(canvas, points, peak, xs[-1])  # once all else has its place

    return plots.svg("roofline", draw)


def _reach(points: Sequence[RoofPoint], peak: Roof | None, ascent: float) -> list[float]:
    marks = [p.intensity for p in points] + ([peak.rate / ascent] if peak else [])
    first, last = min(marks) / 2, max(marks) * 4
    return [first * (last / first) ** (n / 100) for n in range(101)]


def _marks(canvas: Canvas, points: Sequence[RoofPoint], cold: bool, name: str) -> None:
    look: dict[str, Any] = {"color": plots.WINNER, "marker": "o"}
    look["markerfacecolor"] = plots.WINNER if cold else plots.PAPER
    if points:
        marks = [Mark(point.intensity, point.gflop_s, point.says) for point in points]
        canvas.marks(marks, label=name, **look)


def _labels(canvas: Canvas, points: Sequence[RoofPoint], peak: Roof | None, right: float) -> None:
    """The peak's name above its line, and each point's beside it, where nothing else stands."""
    axes = canvas.axes
    canvas.figure.draw_without_rendering()  # so that places of marks are known
    scale = 72 / canvas.figure.dpi
    taken = [_box(axes, p.intensity, p.gflop_s, (-3, -3), (6.0, 6.0), scale) for p in points]
    if peak:
        text = peak.name
        size = (_LETTER[0] * len(text), _LETTER[1])
        taken.append(_box(axes, right, peak.rate, (-size[0], 3), size, scale))
        axes.annotate(
            text,
            (right, peak.rate),
            (0, 4),
            textcoords="offset points",
            ha="right",
            color=plots.INK,
        )
    for point in points:
        size = (_LETTER[0] * len(point.label), _LETTER[1])
        place, box = _free(axes, point, size, taken, scale)
        taken.append(box)
        axes.annotate(
            point.label, (point.intensity, point.gflop_s), place, textcoords="offset points"
        )


Box = tuple[float, float, float, float]


def _free(
    axes: plots.Axes,
    point: RoofPoint,
    size: tuple[float, float],
    taken: Sequence[Box],
    scale: float,
) -> tuple[tuple[float, float], Box]:
    """Where a label can stand without covering anything; the last place where there is none."""
    for x, y in _PLACES:
        place = (x if x > 0 else x - size[0], y)
        box = _box(axes, point.intensity, point.gflop_s, place, size, scale)
        if not any(_overlap(box, other) for other in taken):
            break
    return place, box


def _box(
    axes: plots.Axes,
    x: float,
    y: float,
    offset: tuple[float, float],
    size: tuple[float, float],
    scale: float,
) -> Box:
    """Left, bottom, right and top in points."""
    across, up = axes.transData.transform((x, y)) * scale
    left, bottom = across + offset[0], up + offset[1]
    return left, bottom, left + size[0], bottom + size[1]


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
