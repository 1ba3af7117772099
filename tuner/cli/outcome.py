"""What a tuning session ends with, in lines: what is kept, where it serves, what that loses."""

from __future__ import annotations

import statistics
import string
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from tuner.cli import screen
from tuner.report import words

if TYPE_CHECKING:
    from tuner.tune.result import CellResult, HeldOut, Pace, TuneResult


# A floor above this hides gains that matter.
NOISY = 0.05


def lines(result: TuneResult) -> Iterator[str]:
    """All there is to say beside the table of the cells."""
    letters = _letters(result)
    for name, letter in letters.items():
        yield f"kept {letter}: {name}"
    if len(result.cells) > 1:
        yield from _rules(result, letters)
        yield _regret(result)
    if result.held_out:
        yield from (_held_out(row, letters) for row in result.held_out)
        middle = statistics.median(row.regret for row in result.held_out)
        yield f"held out: loses {percent(middle)} in the median of {len(result.held_out)}"
    yield _floors(result)
    yield from map(_loaded, filter(lambda cell: cell.loaded, result.cells))
    yield _pace(result.pace)


def matrix(result: TuneResult) -> Table:
    """Which kept variant runs in each cell, and what it loses against the cell's own best."""
    letters = _letters(result)
    rows = [
        (
            str(cell.workload.tokens),
            cell.workload.load,
            letters[cell.winner],
            percent(cell.regret),
            f"{100 * cell.noise_floor:.1f}%",
        )
        for cell in result.cells
    ]
    return screen.table(("> tokens", "load", "runs", "> regret", "> noise floor"), rows)


def _letters(result: TuneResult) -> dict[str, str]:
    names = iter(string.ascii_uppercase)
    return {name: next(names, name) for name in result.kept}


def _rules(result: TuneResult, letters: Mapping[str, str]) -> Iterator[str]:
    """One line for each load: "uniform: T <= 45: A; else B"."""
    for load in dict.fromkeys(rule.load for rule in result.rules):
        rules = [rule for rule in result.rules if rule.load == load]
        parts = [
            f"T <= {rule.tokens}: {letters[rule.variant]}"
            if rule.tokens is not None
            else f"{'else ' if len(rules) > 1 else ''}{letters[rule.variant]}"
            for rule in rules
        ]
        yield f"select {load}: {'; '.join(parts)}"


def _regret(result: TuneResult) -> str:
    worst = max(result.cells, key=lambda cell: cell.regret)
    where = f"{worst.workload.tokens} tokens, {worst.workload.load}"
    return (
        f"regret: {percent(result.mean_regret)} in the weighted mean against the best of each cell, "
        f"at most {percent(worst.regret)} ({where})"
    )


def _held_out(row: HeldOut, letters: Mapping[str, str]) -> str:
    chosen = letters.get(row.winner, row.winner)
    interval = f"[{percent(row.regret_low)}, {percent(row.regret_high)}]"
    return (
        f"held out {row.workload.tokens} tokens, {row.workload.load}: {chosen} ({row.match}) "
        f"loses {percent(row.regret)} {interval}"
    )


def _floors(result: TuneResult) -> str:
    floors = sorted(cell.noise_floor for cell in result.cells)
    text = " to ".join(dict.fromkeys(f"{100 * floor:.1f}%" for floor in (floors[0], floors[-1])))
    noisy = "; smaller gains could not be told: run it again on a quiet machine"
    return f"noise floor: {text}{noisy if floors[-1] > NOISY else ''}"


def _loaded(cell: CellResult) -> str:
    where = f"{cell.workload.tokens} tokens, {cell.workload.load}"
    stays = " an earlier winner, if there is one, stays;" if cell.is_default else ""
    return (
        f"could not tell at {where}: the machine was loaded, other processes took "
        f"{words.percent(cell.foreign)} of it;{stays} run it again on a quiet machine"
    )


def _pace(pace: Pace) -> str:
    rest = max(0.0, pace.search_s - pace.build_s - pace.verify_s - pace.race_s)
    return (
        f"pace: {pace.per_minute:.1f} variants a minute, compile to verdict ({pace.compiled} compiled, "
        f"{pace.judged} judged in {words.clock(pace.search_s)}: builds {pace.build_s:.1f} s, verifying "
        f"{pace.verify_s:.1f} s, races {pace.race_s:.1f} s, the rest {rest:.1f} s)"
    )


def percent(factor: float) -> str:
    """What a factor is above 1."""
    return f"{100 * (factor - 1):.1f}%"
