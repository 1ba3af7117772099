"""Figures of times: against tokens, on one machine and on several, and of one workload by date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tuner.report import words
from tuner.report.plots import canvas as plots
from tuner.report.plots.canvas import Canvas

# Of one name in a legend, inches.
_LEGEND_LINE = 0.19


class Point(NamedTuple):
    """A workload's time: number of tokens, ns."""

    tokens: int
    ns: float


class Dated(NamedTuple):
    """A time of one workload: when (UTC, ISO 8601), ns with its interval, and what is to be said of it."""

    when: str
    ns: float
    low_ns: float
    high_ns: float
    says: str


Lines = Mapping[str, Sequence[Point]]


def times(winner: Sequence[Point], default: Sequence[Point], peers: Lines) -> str:
    """Time of one call against tokens, both logarithmic. A default that is the winner has no line."""
    other = [point for point in default if point not in winner]
    name = "winner" if other or not default else "the default, which won"
    looks = {"default": (default, plots.DEFAULT, "s", "--")} if other else {}
    looks[name] = (winner, plots.WINNER, "o", "-")  # above the default's, where both are the same
    looks |= {
        peer: (points, *look, "-")
        for (peer, points), look in zip(peers.items(), plots.LINES, strict=False)
    }
    return plots.svg("times", lambda canvas: _draw(canvas, looks))


def machines(lines: Lines) -> str:
    """The winners' times of several machines."""
    colours = ((plots.WINNER, "o"), (plots.DEFAULT, "X"), *plots.LINES)
    looks = {
        name: (points, *look, "-") for (name, points), look in zip(lines.items(), colours, strict=False)
    }  # fmt: skip
    height = 2.8 + _LEGEND_LINE * len(looks)
    return plots.svg("machines", lambda canvas: _draw(canvas, looks, columns=1), height)


def dates(points: Sequence[Dated]) -> str:
    """The time of one workload, measured on several days."""

    def draw(canvas: Canvas) -> None:
        for number, point in enumerate(points):
            bar = [[point.ns - point.low_ns], [point.high_ns - point.ns]]
            _error(canvas, number, point.ns, bar)
            canvas.point(number, point.ns, point.says, color=plots.WINNER, marker="o")
        shown = [point.when[:10] for point in points]
        canvas.axes.set_xticks(range(len(points)), shown, rotation=30, ha="right")
        canvas.axes.set_xlim(-0.5, len(points) - 0.5)
        middle = sorted(point.ns for point in points)[len(points) // 2]
        reach = max(1.1, *(max(p.high_ns / middle, middle / p.low_ns) for p in points if p.low_ns))
        canvas.axes.set_ylim(middle * (2 - reach), middle * reach)
        canvas.axes.yaxis.set_major_formatter(lambda ns, _: words.duration(ns))

    return plots.svg("dates", draw)


def _error(canvas: Canvas, x: float, y: float, bar: list[list[float]]) -> None:
    canvas.axes.errorbar([x], [y], yerr=bar, color=plots.WINNER, elinewidth=1.2, capsize=3)


def _draw(
    canvas: Canvas,
    looks: Mapping[str, tuple[Sequence[Point], str, str, str]],
    columns: int = 3,
) -> None:
    axes = canvas.axes
    for name, (points, colour, marker, style) in looks.items():
        xs, ys = [p.tokens for p in points], [p.ns / 1e6 for p in points]
        axes.plot(xs, ys, color=colour, linestyle=style)
        canvas.name(name, color=colour, linestyle=style, marker=marker)
        for point in points:
            says = f"{name}: {words.duration(point.ns)} at {words.counted(point.tokens, 'token')}"
            canvas.point(point.tokens, point.ns / 1e6, says, color=colour, marker=marker)
    tokens = {p.tokens for points, *_ in looks.values() for p in points}
    plots.logarithmic(axes.xaxis, _apart(sorted(tokens)))
    axes.set_yscale("log")
    plots.plain_numbers(axes.yaxis, [p.ns / 1e6 for points, *_ in looks.values() for p in points])
    axes.set_xlabel("tokens of one call")
    axes.set_ylabel("time, ms")
    canvas.legend(columns)


def _apart(tokens: Iterable[int]) -> list[int]:
    """The numbers that can be marks of the axis: an octave apart at least."""
    marks: list[int] = []
    for count in tokens:
        if count > 0 and (not marks or count >= 2 * marks[-1]):
            marks.append(count)
    return marks
