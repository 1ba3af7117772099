"""Pages: HTML from the templates in ``pages``. The report is made of the same parts."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2

from tuner.problem import Problem
from tuner.report import words
from tuner.report.answers import of_ceiling
from tuner.report.overview import inverse
from tuner.report.peer_times import proven_faster, proven_slower
from tuner.space.variant import Changes
from tuner.target import Target

_FOLDER = Path(__file__).with_name("pages")
# In this order: the first says what the others use.
_SCRIPTS = ("theme.js", "tables.js", "copy.js", "live.js")


def fill(name: str, **values: Any) -> str:
    """The page of a template."""
    return _environment().get_template(name).render(**values)


@functools.cache
def text(name: str) -> str:
    """A file that pages use as it is: style.css."""
    return (_FOLDER / name).read_text(encoding="utf-8")


@functools.cache
def script() -> str:
    """What pages do in a browser, all of it in one text."""
    return "\n".join(text(name) for name in _SCRIPTS)


def moment(time: str) -> str:
    """A time in UTC (ISO 8601) as people read it; a date stays a date."""
    day, _, clock = time.partition("T")
    return f"{day} {clock[:5]} UTC" if clock else day


def processors(target: Target) -> str:
    """How many cores, or multiprocessors of a GPU."""
    return words.counted(target.cores, "multiprocessor" if target.kind == "gpu" else "core")


def layer_name(problem: Problem) -> str:
    """The label of a layer, or its sizes where it has none."""
    sizes = f"D={problem.hidden} F={problem.expert_dim} E={problem.num_experts} k={problem.top_k}"
    return problem.name or sizes


def factor(value: float) -> str:
    """A factor with three digits that mean something."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _changed(changes: Changes) -> str:
    """In what two configurations differ; a line does not break at an arrow."""
    return words.changed(changes).replace("->", "\N{RIGHTWARDS ARROW}")


@functools.cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    known = {
        "duration": words.duration, "percent": words.percent, "rate": words.rate,
        "changed": _changed, "counted": words.counted, "inverse": inverse, "file": text,
        "script": script, "moment": moment, "factor": factor, "layer_name": layer_name,
        "processors": processors, "of_ceiling": of_ceiling, "proven_faster": proven_faster,
        "proven_slower": proven_slower,
    }  # fmt: skip
    made.globals.update(known)
    return made
