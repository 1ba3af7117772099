"""Pages: HTML from the templates in ``pages``, with figures drawn on the spot.

The report is made of the same parts.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from tuner.report import plots, words
from tuner.report.overview import Overview, inverse
from tuner.report.peer_times import PeerTimes
from tuner.report.plots import Point, TrialPoint

_FOLDER = Path(__file__).with_name("pages")
# Importances below this share are not named.
_LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Drawing:
    """A figure with its heading and what it says in words."""

    title: str
    says: str
    svg: str


def fill(name: str, **values: Any) -> str:
    """The page of a template."""
    return _environment().get_template(name).render(**values)


@functools.cache
def text(name: str) -> str:
    """A file that pages use as it is: style.css, page.js."""
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    known = {
        "duration": words.duration, "percent": words.percent, "rate": words.rate,
        "changed": words.changed, "counted": words.counted, "inverse": inverse, "file": text,
    }  # fmt: skip
    made.globals.update(known)
    return made


def drawings(view: Overview, peers: PeerTimes) -> list[Drawing]:
    """The figures of one problem on one target, but those for which there is nothing to draw."""
    made = [_times(view, peers), _roofline(view), _importances(view), _history(view)]
    return [drawing for drawing in made if drawing]


def numbered(drawing: Drawing, number: int) -> Drawing:
    """The same with other ids, for a page that holds several of a kind."""
    svg = plots.renamed(drawing.svg, f"n{number}")
    return Drawing(drawing.title, drawing.says, svg)


def _times(view: Overview, peers: PeerTimes) -> Drawing:
    load = view.chosen.load
    cells = view.under(load)
    others = peers.of(view.problem, load)
    default = [Point(c.tokens, c.default_ns) for c in cells if c.default_ns is not None]
    best = max(cells, key=lambda cell: cell.speedup)
    told = f"Load {load}. "
    if all(cell.is_default for cell in cells):
        told += "The template's default won everywhere."
    else:
        at = words.counted(best.tokens, "token")
        told += f"At most {best.speedup:.2f} times the default's speed, at {at}."
    beside = f" Beside it: {', '.join(others)}." if others else ""
    svg = plots.times(
        [Point(c.tokens, c.median_ns) for c in cells],
        default,
        {name: [Point(*point) for point in points] for name, points in others.items()},
    )
    return Drawing("Time against tokens", told + beside, svg)


def _roofline(view: Overview) -> Drawing | None:
    cells = [c for c in view.under(view.chosen.load) if c.gflop_s and c.gb_s]
    roofs = {n: v for n, v in view.ceilings.items() if n in ("fma", "dot")}
    read = view.ceilings.get("read")
    if not cells or not roofs or not read:
        return None
    points = {c.tokens: (c.gflop_s / c.gb_s, c.gflop_s) for c in cells if c.gflop_s and c.gb_s}
    shares = [
        f"{c.tokens}: {words.percent(c.fraction)} of {c.ceiling}" for c in cells if c.fraction
    ]
    told = f"Winners by tokens, of the ceiling that was probed beside them. {'; '.join(shares)}."
    return Drawing("Roofline", told, plots.roofline(points, roofs, read))


def _importances(view: Overview) -> Drawing | None:
    found = view.explanation.importances
    values = {name: share for name, share in found.values.items() if share >= _LEAST_SHARE}
    if not values:
        return None
    first = next(iter(values))
    told = (
        f"PED-ANOVA over {found.trials} timed trials at {words.counted(view.chosen.tokens, 'token')}; "
        f"{first} decides most ({words.percent(values[first])})."
    )
    return Drawing("Parameter importances", told, plots.importances(values))


def _history(view: Overview) -> Drawing | None:
    tried = [
        TrialPoint(row.status, row.measurement.ratio if row.measurement else None)
        for row in view.trials
    ]
    timed = [t for t in tried if t.ratio]
    if not timed:
        return None
    counts: Mapping[str, int] = view.explanation.found.statuses
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return Drawing(
        "Trials by status",
        f"At {words.counted(view.chosen.tokens, 'token')}: {told}.",
        plots.history(tried),
    )
