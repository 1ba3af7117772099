"""Figures: what they show and what they leave out, read from their SVG."""

from __future__ import annotations

import itertools
import re

import pytest

from tuner.report.plots import times as plot_times
from tuner.report.plots import trials as plot_trials
from tuner.report.plots.roofline import Roof, RoofPoint, roofline
from tuner.report.plots.times import Dated, Point
from tuner.report.plots.trials import Speed, TrialPoint, Tried


def texts(svg: str) -> list[str]:
    """All words of a figure but its hints."""
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]


def hints(svg: str) -> list[str]:
    return re.findall(r"<title>([^<]*)</title>", svg)


def trial(speed: float, status: str = "ok", final: float | None = None, **more: bool) -> TrialPoint:
    """A trial with an interval of 1 % around its speeds."""
    both = [s and Speed(s, s * 0.99, s * 1.01) for s in (speed, final)]
    default = more.get("is_default", False)
    return TrialPoint(status, both[0] or None, both[1] or None, default, f"{status} {speed}")


def marks(svg: str) -> list[float]:
    """The numbers of the axis of speeds."""
    axis = svg[svg.index('id="trials-matplotlib.axis_2"') :]
    return [float(text) for text in texts(axis) if re.fullmatch(r"[\d.]+", text)]


def test_the_axis_shows_the_neighbourhood_of_one() -> None:
    """Whatever else was tried: a variant of a tenth of the speed does not press the rest together."""
    points = [trial(1.0, is_default=True), trial(1.02), trial(0.1, "slow"), trial(0, "crash")]
    assert marks(plot_trials.trials(points, 0.01)) == [0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1]
    assert marks(plot_trials.trials([*points[:2], trial(1.9)], None))[-1] == 1.75


def test_the_default_races_itself_and_is_called_so() -> None:
    points = [trial(1.30, is_default=True), trial(1.04, final=1.03), trial(0.98), trial(0, "wrong")]
    svg = plot_trials.trials(points, 0.028)
    legend = ["noise, 2.8 %", "best so far", "ok", "the default against itself", "in the finals",
              "wrong"]  # fmt: skip
    assert [text for text in texts(svg) if text in legend] == legend
    assert hints(svg) == ["ok 1.04", "ok 0.98", "ok 1.3", "ok 1.04", "wrong 0"]
    assert "slow, given up early" not in texts(svg)


def test_a_trial_alone_has_no_best_so_far() -> None:
    assert "best so far" not in texts(plot_trials.trials([trial(1.0, is_default=True)], None))


def test_where_the_default_won_there_is_one_line() -> None:
    points = [Point(1, 1e6), Point(128, 8e6)]
    one = texts(plot_times.times(points, points, {}))
    assert "the default, which won" in one
    assert not {"winner", "default"} & set(one)
    two = texts(plot_times.times(points, [points[0], Point(128, 9e6)], {"torch": points}))
    assert {"winner", "default", "torch"} <= set(two)


def test_numbers_of_tokens_stand_an_octave_apart() -> None:
    points = [Point(tokens, 1e6 * tokens) for tokens in (1, 16, 17, 30, 32)]
    svg = plot_times.times(points, points, {})
    axis = svg[
        svg.index('id="times-matplotlib.axis_1"') : svg.index('id="times-matplotlib.axis_2"')
    ]
    assert texts(axis)[:3] == ["1", "16", "32"]


def test_dates_have_their_times() -> None:
    rows = [
        Dated(f"2026-01-0{day}T00:00:00+00:00", 1e6, 0.9e6, 1.1e6, f"on {day}") for day in (1, 2)
    ]
    svg = plot_times.dates(rows)
    assert {"2026-01-01", "2026-01-02", "1 ms"} <= set(texts(svg))
    assert hints(svg) == ["on 1", "on 2"]


def test_labels_of_a_roofline_do_not_cover_each_other() -> None:
    """Four points at nearly one place, under the name of the roof."""
    points = [
        RoofPoint(str(10**n), 100.0 * 1.02**n, 220.0 * 1.01**n, n % 2 == 0, "") for n in range(4)
    ]
    svg = roofline(points, Roof("float32 FMA", 235.0), Roof("read", 33.0))
    after = svg[svg.index("float32 FMA 235") :]
    found = re.findall(r'<text[^>]* x="([\d.]+)" y="([\d.]+)"[^>]*>(1|10|100|1000)</text>', after)
    boxes = [(float(x), float(y), float(x) + 6 * len(label)) for x, y, label in found]
    assert len(boxes) == 4
    for one, other in itertools.combinations(boxes, 2):
        apart = one[2] < other[0] or other[2] < one[0] or abs(one[1] - other[1]) > 9
        assert apart, (one, other)


@pytest.mark.parametrize(("rate", "unit"), [(235.0, "GFLOP/s"), (770_084.7, "TFLOP/s")])
def test_the_unit_fits_the_machine(rate: float, unit: str) -> None:
    svg = roofline(
        [RoofPoint("1", 1.0, rate / 2, True, "x")], Roof("peak", rate), Roof("copy", 4000.0)
    )
    told = f"peak {rate if unit[0] == 'G' else rate / 1e3:.0f} {unit}"
    assert {unit, told, "weights from memory"} <= set(texts(svg))
    assert "FLOP per byte (copy 4000 GB/s)" in texts(svg)


def test_a_memory_bound_alone_is_a_roof() -> None:
    svg = roofline([RoofPoint("1", 1.0, 20.0, True, "x")], None, Roof("read", 33.0))
    assert "FLOP per byte (read 33 GB/s)" in texts(svg)


def test_parallel_coordinates_name_values() -> None:
    tried = [Tried({"a": a, "b": b}, 1 + a / 10) for a in (1, 2, 4) for b in (0, 1)]
    svg = plot_trials.parallel(tried, ["a", "b"])
    assert {"a", "b", "0", "1", "2", "4"} <= set(texts(svg))
    assert "1.40 times the default&#x27;s speed: a 4, b 1" in svg


def test_a_hint_is_text() -> None:
    svg = plot_trials.trials([TrialPoint("ok", Speed(1, 1, 1), None, False, "<script>")], None)
    assert "<script>" not in svg
    assert "&lt;script&gt;" in svg
