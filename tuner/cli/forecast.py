"""What ``moetune tune --dry-run`` prints: how many points, trials and builds, and how long they take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from tuner.cli import screen
from tuner.problem import Problem
from tuner.report import words

if TYPE_CHECKING:
    from tuner.space.count import Count
    from tuner.tune.estimate import CellEstimate, Estimate

_COLUMNS = (
    "> tokens", "load", "> points", "> recorded", "> new trials", "> cached", "> builds", "> search",
    "> finals",
)  # fmt: skip


def show(problem: Problem, estimate: Estimate, as_json: bool) -> None:
    """Print an estimate as a table with the sources of its times, or as JSON."""
    if as_json:
        told = {"problem": problem.key, "name": problem.name, "seconds": estimate.seconds}
        cells = [{**asdict(cell), "builds": cell.builds} for cell in estimate.cells]
        screen.echo(json.dumps({**told, **asdict(estimate), "cells": cells}, indent=2))
        return
    out = screen.stdout()
    out.print(problem.describe(), soft_wrap=True)
    out.print(screen.table(_COLUMNS, [_row(cell) for cell in estimate.cells]))
    for line in _lines(estimate):
        out.print(line, soft_wrap=True)


def shortage(estimate: Estimate) -> str:
    """What to say where a session's time is too short for what every session does; empty where it is not."""
    if estimate.budget_s is None or estimate.seconds <= estimate.budget_s:
        return ""
    return (
        f"--time {estimate.budget_s:g}s: is too short; weights and right answers, the default, and the finals "
        f"take about {words.clock(estimate.seconds)} here, with {estimate.trials} new trials"
    )


def _row(cell: CellEstimate) -> tuple[str, ...]:
    return (
        str(cell.workload.tokens),
        cell.workload.load,
        _count(cell.points),
        str(cell.recorded),
        str(cell.trials),
        str(cell.cached),
        str(cell.builds),
        words.clock(cell.search_s),
        words.clock(cell.visits_s + cell.finals_s),
    )


def _count(count: Count) -> str:
    if count.exact:
        return f"{count.value:,.0f}"
    return f"about {count.value:,.2g} [{count.low:,.2g}, {count.high:,.2g}]"


def _lines(estimate: Estimate) -> Iterator[str]:
    sources = {cell.times.source: cell.times for cell in estimate.cells}
    for source, times in sources.items():
        yield (
            f"each: compile {times.compile_s:.2g} s, verify {times.verify_s:.2g} s, timing "
            f"{times.benchmark_s:.2g} s ({source})"
        )
    yield (
        f"weights and right answers of each process take {words.clock(estimate.start_s)} in all"
        f"{f', workloads held out {words.clock(estimate.held_out_s)}' if estimate.held_out_s else ''}"
    )
    builds = sum(cell.builds for cell in estimate.cells)
    short = shortage(estimate)
    stops = "" if estimate.budget_s is None else f"; stops after {words.clock(estimate.budget_s)}"
    yield (
        f"{estimate.trials} new trials with {builds} builds take about "
        f"{words.clock(estimate.seconds)}{'' if short else stops}"
    )
    if short:
        yield short
