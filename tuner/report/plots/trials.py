"""Figures of a search: its trials in their order, and what its parameters have to do with the speed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuner.report.plots import canvas as plots
from tuner.report.plots.canvas import Canvas, Mark

# Status of what was not timed -> its mark.
_FAILED = {"wrong": "X", "crash": "P", "timeout": "s", "compile": "D", "invalid": "^"}
# Kinds of marks of what was timed.
_OK, _SLOW, _BELOW = "ok", "slow, given up early", "slower than the axis shows"
_DEFAULT, _FINAL = "the default against itself", "in the finals"
# The axis shows this part around 1 at least, and never more to the slow side than _SLOWEST.
_AROUND = 1.1
_SLOWEST = 0.7
# What failed stands in a strip of this part of the axis, below.
_STRIP = 0.1
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
        foot = low * (low / high) ** _STRIP if any(p.status in _FAILED for p in points) else low
        axes.set_yscale("log")
        if noise_floor:
            axes.axhspan(
                1 / (1 + noise_floor), 1 + noise_floor, color=plots.FAINT, alpha=0.16, linewidth=0,
                label=f"noise, {100 * noise_floor:.1f} %",
            )  # fmt: skip
        axes.axhline(1.0, color=plots.FAINT, linewidth=1)
        _best_so_far(canvas, points)
        _show(canvas, points, low, foot)
        axes.set_ylim(foot**2 / low / 1.01, high)
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
        xs = [*range(1, len(best) + 1), len(best) + 0.6]  # the last step is seen, too
        canvas.axes.step(
            xs, [*best, best[-1]], where="post", color=plots.WINNER, linewidth=1, alpha=0.6,
            label="best so far",
        )  # fmt: skip


def _looks() -> dict[str, dict[str, Any]]:
    """Kind of mark -> its look, in the order of the legend."""
    hollow = {"markerfacecolor": plots.PAPER}
    own: dict[str, dict[str, Any]] = {
        _OK: {"color": plots.WINNER, "marker": "o"},
        _SLOW: {"color": plots.WINNER, "marker": "o", **hollow},
        _BELOW: {"color": plots.WINNER, "marker": "v", "markersize": 4, **hollow},
        _DEFAULT: {"color": plots.DEFAULT, "marker": "D", **hollow},
        _FINAL: {"color": plots.PEER_2, "marker": "*", "markersize": 9},
    }
    failed = {status: {"color": plots.INK, "marker": mark} for status, mark in _FAILED.items()}
    return own | failed


def _show(canvas: Canvas, points: Sequence[TrialPoint], low: float, foot: float) -> None:
    """The marks of each kind, and the intervals of those that stand at their place."""
    placed = [
        one for number, point in enumerate(points, 1) for one in _placed(point, number, low, foot)
    ]
    for kind, look in _looks().items():
        own = [one for one in placed if one.kind == kind]
        if own:
            _bars(
                canvas, [one for one in own if one.speed and one.speed.value >= low], look["color"]
            )
            canvas.marks([one.mark for one in own], label=kind, **look)


def _bars(canvas: Canvas, placed: Sequence[_Placed], colour: str) -> None:
    lows = [one.speed.low for one in placed if one.speed]
    highs = [one.speed.high for one in placed if one.speed]
    xs = [one.mark.x for one in placed]
    canvas.axes.vlines(xs, lows, highs, color=colour, linewidth=0.9, alpha=0.8)


class _Placed(NamedTuple):
    """A mark of a kind, with the speed that it stands for; None where it failed."""

    kind: str
    mark: Mark
    speed: Speed | None


def _placed(point: TrialPoint, number: int, low: float, foot: float) -> Iterator[_Placed]:
    """The marks of a trial: one of the search, one of the finals."""
    if point.status in _FAILED:
        yield _Placed(point.status, Mark(number, foot, point.says), None)
    elif point.speed:
        y = max(point.speed.value, low * 1.005)
        yield _Placed(_kind(point, low), Mark(number, y, point.says), point.speed)
    if point.final and not point.is_default:
        mark = Mark(number + 0.3, max(point.final.value, low * 1.005), point.says)
        yield _Placed(_FINAL, mark, point.final)


def _kind(point: TrialPoint, low: float) -> str:
    """Of a trial that was timed."""
    if point.is_default:
        return _DEFAULT
    if point.speed and point.speed.value < low:
        return _BELOW
    return _SLOW if point.status == "slow" else _OK


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
