"""Drawings: the figures of one problem on one target, each with what it says in words."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.problem import Problem
from tuner.report import words
from tuner.report.answers import of_ceiling
from tuner.report.importance import LEAST_TRIALS
from tuner.report.machines import SideBySide
from tuner.report.overview import Overview, WorkloadWinner, inverse
from tuner.report.plots import canvas as plots
from tuner.report.plots import roofline as plot_roofline
from tuner.report.plots import times as plot_times
from tuner.report.plots import trials as plot_trials
from tuner.report.plots.roofline import Roof, RoofPoint
from tuner.report.plots.times import Dated, Point
from tuner.report.plots.trials import Speed, TrialPoint, Tried
from tuner.space.variant import changes
from tuner.store.peer_times import PeerTimeRow
from tuner.store.records import MeasurementRow, TrialRow
from tuner.target import Target
from tuner.target.roofline import multiplies_pairs

# Importances below this share are not named.
_LEAST_SHARE = 0.01
_MOST_AXES = 6
_KEPT = 256
# In GFLOP/s or GB/s.
_LEAST_RATE, _MOST_RATE = 1e-6, 1e12


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading and what it says in words; ``svg`` is empty where there is none to draw."""

    title: str
    says: str
    svg: str


def numbered(drawing: Drawing, number: int) -> Drawing:
    """The same with other ids, for a page that holds several of a kind."""
    return Drawing(drawing.title, drawing.says, plots.renamed(drawing.svg, f"n{number}"))


def drawings(view: Overview, peers: Sequence[PeerTimeRow]) -> list[Drawing]:
    """The figures of one problem on one target, but those for which there is nothing to draw.

    ``peers`` are the newest rows of each.
    """
    made = [_times(view, peers), _roofline(view), history(view), search(view)]
    return [drawing for drawing in [*made, *_parameters(view)] if drawing]


def beside(machines: SideBySide, load: str) -> Drawing | None:
    """The winners of all machines; None where there are not two."""
    lines = {
        f"{machine.label}, {machine.problem.dtype}": [
            Point(row.tokens, time.median_ns)
            for row in machines.rows
            if row.load == load and (time := row.times[number])
        ]
        for number, machine in enumerate(machines.machines)
    }
    lines = {name: points for name, points in lines.items() if points}
    if len(lines) < 2:
        return None
    return Drawing("Machines side by side", f"Winners of load {load}.", _machines(_frozen(lines)))


def _frozen(lines: Mapping[str, Sequence[Point]]) -> tuple[tuple[str, tuple[Point, ...]], ...]:
    return tuple((name, tuple(points)) for name, points in lines.items())


# The same numbers make the same drawing, and a page that follows a session asks for it often.
@functools.lru_cache(_KEPT)
def _machines(lines: tuple[tuple[str, tuple[Point, ...]], ...]) -> str:
    return plot_times.machines(dict(lines))


_times_svg = functools.lru_cache(_KEPT)(
    lambda winner, default, peers: plot_times.times(winner, default, dict(peers))
)
_trials_svg = functools.lru_cache(_KEPT)(plot_trials.trials)


def _times(view: Overview, peers: Sequence[PeerTimeRow]) -> Drawing | None:
    load = view.chosen.load
    cells = view.under(load)
    if not cells:
        return None
    others: dict[str, list[Point]] = {}
    for row in sorted(peers, key=lambda row: row.tokens):
        if row.load == load:
            others.setdefault(row.peer, []).append(Point(row.tokens, row.median_ns))
    others = dict(sorted(others.items()))
    default = tuple(Point(c.tokens, c.default_ns) for c in cells if c.default_ns is not None)
    winner = tuple(Point(c.tokens, c.median_ns) for c in cells)
    told = f"Load {load}. {_most(cells)}"
    told += f" Beside it: {', '.join(others)}." if others else ""
    return Drawing("Time against tokens", told, _times_svg(winner, default, _frozen(others)))


def _most(cells: Sequence[WorkloadWinner]) -> str:
    best = max(cells, key=lambda cell: cell.speedup)
    if all(cell.is_default for cell in cells):
        return "The template's default won everywhere."
    return f"At most {best.speedup:.2f} times the default's speed, at {words.counted(best.tokens, 'token')}."


def _roofline(view: Overview) -> Drawing | None:
    cells = [c for c in view.under(view.chosen.load) if _is_rate(c.gflop_s) and _is_rate(c.gb_s)]
    memory = _memory(view, cells)
    if not cells or memory is None:
        return None
    points = [_roof_point(c, c.gflop_s, c.gb_s) for c in cells if c.gflop_s and c.gb_s]
    peak = _peak(view.problem, view.target, view.ceilings)
    shares = [
        f"{c.tokens}: {of_ceiling(c.ceiling, c.fraction)}" for c in cells if c.fraction is not None
    ]
    told = f"By tokens, of what was probed beside each: {'; '.join(shares)}." if shares else ""
    told += "" if peak else " The peak of this machine was not probed."
    return Drawing("Roofline", told.strip(), plot_roofline.roofline(points, peak, memory))


def _is_rate(value: float | None) -> bool:
    """Whether a machine can have it: rows of other machines may say anything."""
    return value is not None and _LEAST_RATE <= value <= _MOST_RATE


def _roof_point(cell: WorkloadWinner, gflop_s: float, gb_s: float) -> RoofPoint:
    says = f"{words.counted(cell.tokens, 'token')}: {gflop_s:.0f} GFLOP/s, {gb_s:.1f} GB/s"
    share = of_ceiling(cell.ceiling, cell.fraction)
    says += f", {share}" if share else ""
    cold = cell.temperature == "cold"
    return RoofPoint(str(cell.tokens), gflop_s / gb_s, gflop_s, cold, says)


def _memory(view: Overview, cells: Sequence[WorkloadWinner]) -> Roof | None:
    """The bandwidth that the winners were held to."""
    held = [c.ceiling for c in cells if c.ceiling in ("read", "copy")]
    for name in (*held, "read", "copy"):
        if _is_rate(view.ceilings.get(name)):
            return Roof(name, view.ceilings[name])
    return None


def _peak(problem: Problem, target: Target, ceilings: Mapping[str, float]) -> Roof | None:
    """The peak of the layer's own type: dot products only where it may use them."""
    names = {
        "dense": "dense products",
        "dot": f"{problem.dtype} dot products",
        "fma": "float32 FMA",
    }
    usable = ["dense"] if target.kind == "gpu" else ["fma"]
    if target.kind != "gpu" and multiplies_pairs(problem, target):
        usable.insert(0, "dot")
    for name in usable:
        if _is_rate(ceilings.get(name)):
            return Roof(names[name], ceilings[name])
    return None


def _parameters(view: Overview) -> list[Drawing]:
    """What the parameters have to do with the speed, or how many trials are lacking to tell."""
    found = view.explanation.importances
    at = words.counted(view.chosen.tokens, "token")
    if found.too_few:
        told = (
            f"{words.counted(found.trials, 'trial')} of {at} {'was' if found.trials == 1 else 'were'} timed; "
            f"{LEAST_TRIALS - found.trials} more are needed to tell which parameters matter."
        )
        return [Drawing("Parameters", told, "")] if found.trials else []
    values = {name: share for name, share in found.values.items() if share >= _LEAST_SHARE}
    if not values:
        return []
    first = next(iter(values))
    told = (
        f"PED-ANOVA over {found.trials} timed trials at {at}; "
        f"{first} decides most ({words.percent(values[first])})."
    )
    bars = Drawing("Parameter importances", told, plot_trials.importances(values))
    return [bars, *_parallel(view, list(values)[:_MOST_AXES])]


def _parallel(view: Overview, names: Sequence[str]) -> list[Drawing]:
    tried = [
        Tried(row.config, inverse(row.measurement.ratio))
        for row in view.trials
        if row.measurement and row.measurement.ratio and set(names) <= set(row.config)
    ]
    if len(names) < 2 or len(tried) < LEAST_TRIALS:
        return []
    told = "A line for each configuration through its values; the faster half is in colour."
    return [Drawing("Parallel coordinates", told, plot_trials.parallel(tried, names))]


def history(view: Overview) -> Drawing | None:
    """The winner's time by date; None where it was measured once."""
    if len(view.occasions) < 2:
        return None
    points = [
        Dated(o.created, o.median_ns, o.low_ns, o.high_ns,
              f"{o.created[:16]}, {o.kind}: {words.duration(o.median_ns)}")
        for o in view.occasions
    ]  # fmt: skip
    told = "Finals and audits, with 95 % intervals of the median; not paired, so the machine's state counts."
    return Drawing("Time by date", told, plot_times.dates(points))


def search(view: Overview) -> Drawing | None:
    """The trials of the chosen workload; None where none was timed against the default."""
    points = tuple(_trial_point(view, row, n) for n, row in enumerate(view.trials, 1))
    if not any(point.speed for point in points):
        return None
    counts: dict[str, int] = {}
    for row in view.trials:
        counts[row.status] = counts.get(row.status, 0) + 1
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    floor = noise_floor(view)
    at = words.counted(view.chosen.tokens, "token")
    return Drawing("Trials", f"At {at}, {view.chosen.load}: {told}.", _trials_svg(points, floor))


def noise_floor(view: Overview) -> float | None:
    """The gain below which nothing counted, as a share: of the session that ended, else of its last trial."""
    if view.explanation.account:
        return view.explanation.account.noise_floor or None
    floors = (row.environment.get("noise_floor") for row in reversed(view.trials))
    return next((floor for floor in floors if floor), None)


def is_default(view: Overview, row: TrialRow) -> bool:
    """Whether a trial is of the default: its race is one against a copy of itself."""
    base = row.environment.get("base")
    winner = view.explanation.winner
    told = base or (winner.default if winner else None) or view.trials[0].variant
    return row.variant == told


def _trial_point(view: Overview, row: TrialRow, number: int) -> TrialPoint:
    final = row.final if row.final and row.final.kind == "final" else None
    own = row.measurement if row.measurement and row.measurement.kind == "trial" else None
    default = is_default(view, row)
    return TrialPoint(
        row.status,
        _speed(own),
        _speed(final),
        default,
        f"trial {number}: {says(view, row, default)}",
    )


def says(view: Overview, row: TrialRow, default: bool) -> str:
    """A trial in a line."""
    if row.measurement is None or not row.measurement.ratio:
        return ": ".join(filter(None, [row.status, row.message]))
    speed = _speed(row.final or row.measurement)
    told = words.times(*speed) if speed else ""
    if default:
        return f"the default against a copy of itself, {told}"
    return f"{row.status}, {told}, {words.changed(changed(view, row)) or 'as the default'}"


def changed(view: Overview, row: TrialRow) -> Mapping[str, tuple[int, int]]:
    """In what a trial differs from the default; nothing where they have other parameters."""
    base = next((other for other in view.trials if is_default(view, other)), None)
    if base is None or set(base.config) != set(row.config):
        return {}
    return changes(base.config, row.config)


def _speed(row: MeasurementRow | None) -> Speed | None:
    if row is None or not row.ratio:
        return None
    low, high = row.ratio_low or row.ratio, row.ratio_high or row.ratio
    return Speed(inverse(row.ratio), inverse(high), inverse(low))
