"""Figures of a search: its trials in their order, and what its parameters have to do with the speed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tuner.report.plots import canvas as plots
from tuner.report.plots.canvas import Canvas

# Status of what was not timed -> its mark.
_FAILED = {"wrong": "X", "crash": "P", "timeout": "s", "compile": "D", "invalid": "^"}
# The axis shows this part around 1 at least, and never more to the slow side than _SLOWEST.
_AROUND = 1.1
_SLOWEST = 0.7
_STRIP = 1.07
_MARKS = (0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.75, 2.0, 3.0, 5.0, 10.0)
_MOST_MARKS = 9
_MOST_LINES = 300


class Speed(NamedTuple):
    """A speed over the default's, with its interval."""

    value: float
    low: float
    high: float


class TrialPoint(NamedTuple):
    """A trial: its status, its speed in the search and in the finals where it was timed there, whether it
    is of the default itself, and its text."""

    status: str
    speed: Speed | None
    final: Speed | None
    is_default: bool
    says: str


class Tried(NamedTuple):
    """A configuration that was timed: parameter -> value, and its speed over the default's."""

    config: Mapping[str, int]
    speed: float


def trials(points: Sequence[TrialPoint], noise_floor: float | None) -> str:
    """Trials in their order by speed over the default's, with the finals, the best so far and the noise.

    What is slower than the axis shows stands at its foot; what failed stands in a strip below.
    """

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        low, high = _range(points)
        axes.set_yscale("log")
        if noise_floor:
            axes.axhspan(
                1 / (1 + noise_floor), 1 + noise_floor, color=plots.FAINT, alpha=0.16, linewidth=0,
                label=f"noise, {100 * noise_floor:.1f} %",
            )  # fmt: skip
        axes.axhline(1.0, color=plots.FAINT, linewidth=1)
        _best_so_far(canvas, points)
        for number, point in enumerate(points, 1):
            _mark(canvas, number, point, low)
        _name(canvas, points)
        axes.set_ylim(low / _STRIP**2, high)
        plots.nearby(axes.yaxis, _marks(low, high))
        axes.set_xlim(0.4, len(points) + 0.6)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel("speed over the default's")
        canvas.legend()

    return plots.svg("trials", draw)


def _range(points: Sequence[TrialPoint]) -> tuple[float, float]:
    speeds = [s for point in points for s in (point.speed, point.final) if s]
    slowest = min((speed.value for speed in speeds), default=1.0)
    fastest = max((speed.value for speed in speeds), default=1.0)
    high = max((min(speed.high, 1.2 * fastest) for speed in speeds), default=1.0)
    return max(_SLOWEST, min(1 / _AROUND, slowest / 1.02)), max(_AROUND, high) * 1.02


def _marks(low: float, high: float) -> list[float]:
    shown = [mark for mark in _MARKS if low <= mark <= high]
    if len(shown) > _MOST_MARKS:
        shown = [mark for mark in shown if mark not in (0.95, 1.05, 1.3, 1.75)]
    return shown


def _best_so_far(canvas: Canvas, points: Sequence[TrialPoint]) -> None:
    """The default is what there is to begin with."""
    speeds = [
        p.speed.value if p.speed and p.status == "ok" and not p.is_default else 1.0 for p in points
    ]
    best = list(itertools.accumulate(speeds, max, initial=1.0))[1:]
    if len(best) > 1:
        canvas.axes.step(
            range(1, len(best) + 1), best, where="post", color=plots.WINNER, linewidth=1,
            alpha=0.6, label="best so far",
        )  # fmt: skip


def _mark(canvas: Canvas, number: int, point: TrialPoint, low: float) -> None:
    if point.speed is None and point.final is None:
        look = {"color": plots.INK, "marker": _FAILED.get(point.status, "_")}
        canvas.point(number, low / _STRIP, point.says, **look)
        return
    if point.speed:
        hollow = (
            {"markerfacecolor": plots.PAPER} if point.is_default or point.status == "slow" else {}
        )
        colour = plots.DEFAULT if point.is_default else plots.WINNER
        if point.speed.value < low:
            canvas.point(
                number, low * 1.005, point.says, color=colour, marker="v", markersize=4, **hollow
            )
        else:
            _bar(canvas, number, point.speed, colour)
            marker = "D" if point.is_default else "o"
            canvas.point(
                number, point.speed.value, point.says, color=colour, marker=marker, **hollow
            )
    if point.final and not point.is_default:
        _bar(canvas, number + 0.3, point.final, plots.PEER_2)
        canvas.point(
            number + 0.3, max(point.final.value, low), point.says,
            color=plots.PEER_2, marker="*", markersize=9,
        )  # fmt: skip


def _bar(canvas: Canvas, x: float, speed: Speed, colour: str) -> None:
    canvas.axes.plot([x, x], [speed.low, speed.high], color=colour, linewidth=0.9, alpha=0.8)


def _name(canvas: Canvas, points: Sequence[TrialPoint]) -> None:
    """The legend's marks, of what there is."""
    timed = [p for p in points if p.speed and not p.is_default]
    own = {
        "ok": (any(p.status == "ok" for p in timed), plots.WINNER, "o", plots.WINNER),
        "slow, given up early": (any(p.status == "slow" for p in timed), plots.WINNER, "o", plots.PAPER),
        "the default against itself": (_defaults(points), plots.DEFAULT, "D", plots.PAPER),
        "in the finals": (any(p.final and not p.is_default for p in points), plots.PEER_2, "*", plots.PEER_2),
    }  # fmt: skip
    for status, marker in _FAILED.items():
        own[status] = (any(p.status == status for p in points), plots.INK, marker, plots.INK)
    for name, (there, colour, marker, face) in own.items():
        if there:
            canvas.name(name, linestyle="", color=colour, marker=marker, markerfacecolor=face)


def _defaults(points: Sequence[TrialPoint]) -> bool:
    return any(point.is_default and point.speed for point in points)


def importances(values: Mapping[str, float]) -> str:
    """Shares of the importance of parameters, the largest on top."""

    def draw(canvas: Canvas) -> None:
        names = list(values)[:10][::-1]
        bars = canvas.axes.barh(
            names, [100 * values[name] for name in names], color=plots.WINNER, height=0.6
        )
        for name, bar in zip(names, bars, strict=True):
            canvas.hint(bar, f"{name}: {100 * values[name]:.0f} %")
        canvas.axes.set_xlabel("share of the importance, %")
        canvas.axes.grid(False, axis="y")

    return plots.svg("importances", draw)


def parallel(tried: Sequence[Tried], names: Sequence[str]) -> str:
    """A line for each configuration through its values; the faster half in colour, the rest faint."""
    values = {name: sorted({t.config[name] for t in tried}) for name in names}
    middle = sorted(t.speed for t in tried)[len(tried) // 2]
    shown = sorted(tried, key=lambda t: t.speed)[-_MOST_LINES:]

    def draw(canvas: Canvas) -> None:
        axes = canvas.axes
        for one in shown:
            ys = [_share(values[name], one.config[name]) for name in names]
            fast = one.speed >= middle
            colour, alpha = (plots.WINNER, 0.75) if fast else (plots.FAINT, 0.35)
            (line,) = axes.plot(range(len(names)), ys, color=colour, alpha=alpha, linewidth=1.1)
            told = ", ".join(f"{name} {one.config[name]}" for name in names)
            canvas.hint(line, f"{one.speed:.2f} times the default's speed: {told}")
        for place, name in enumerate(names):
            for value in values[name]:
                axes.annotate(
                    str(value), (place, _share(values[name], value)), (3, 2),
                    textcoords="offset points", fontsize=8.5,
                )  # fmt: skip
        axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
        axes.set_yticks([])
        axes.grid(True, axis="x")
        axes.set_xlim(-0.1, len(names) - 0.6)

    return plots.svg("parallel", draw)


def _share(values: Sequence[int], value: int) -> float:
    """The place of a value among those that were tried, from 0 to 1."""
    return values.index(value) / max(len(values) - 1, 1)
