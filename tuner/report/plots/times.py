"""Figures of times: against tokens, on one machine and on several, and of one workload by date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tuner.report import words
from tuner.report.plots import canvas as plots
from tuner.report.plots.canvas import Canvas, Mark

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
        bars = [[p.ns - p.low_ns for p in points], [p.high_ns - p.ns for p in points]]
        canvas.axes.errorbar(
            range(len(points)), [p.ns for p in points], bars, color=plots.WINNER, linestyle="",
            elinewidth=1.2, capsize=3,
        )  # fmt: skip
        marks = [Mark(number, point.ns, point.says) for number, point in enumerate(points)]
        canvas.marks(marks, color=plots.WINNER, marker="o")
        shown = [point.when[:10] for point in points]
        canvas.axes.set_xticks(range(len(points)), shown, rotation=30, ha="right")
        canvas.axes.set_xlim(-0.5, len(points) - 0.5)
        middle = sorted(point.ns for point in points)[len(points) // 2]
        reach = max(1.1, *(max(p.high_ns / middle, middle / p.low_ns) for p in points if p.low_ns))
        canvas.axes.set_ylim(middle * (2 - reach), middle * reach)
        canvas.axes.yaxis.set_major_formatter(lambda ns, _: words.duration(ns))

    return plots.svg("dates", draw)


def _draw(
    canvas: Canvas,
    looks: Mapping[str, tuple[Sequence[Point], str, str, str]],
    columns: int = 3,
) -> None:
    axes = canvas.axes
    for name, (points, colour, marker, style) in looks.items():
        marks = [Mark(p.tokens, p.ns / 1e6, _says(name, p)) for p in points if p.tokens]
        canvas.marks(marks, label=name, color=colour, marker=marker, linestyle=style)
    tokens = {p.tokens for points, *_ in looks.values() for p in points}
    plots.logarithmic(axes.xaxis, _apart(sorted(tokens)))
    axes.set_yscale("log")
    plots.plain_numbers(axes.yaxis, [p.ns / 1e6 for points, *_ in looks.values() for p in points])
    axes.set_xlabel("tokens of one call")
    axes.set_ylabel("time, ms")
    canvas.legend(columns)


def _says(name: str, point: Point) -> str:
    return f"{name}: {words.duration(point.ns)} at {words.counted(point.tokens, 'token')}"


def _apart(tokens: Iterable[int]) -> list[int]:
    """The numbers that can be marks of the axis: an octave apart at least."""
    marks: list[int] = []
    for count in tokens:
        if count > 0 and (not marks or count >= 2 * marks[-1]):
            marks.append(count)
    return marks
