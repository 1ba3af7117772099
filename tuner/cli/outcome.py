"""What a tuning session ends with: the answer, which kernels serve where, and with -v all that is known."""

from __future__ import annotations

import statistics
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tuner.cli import answer, screen
from tuner.problem import Problem
from tuner.report import words
from tuner.space.variant import changes, parse
from tuner.target import Target

if TYPE_CHECKING:
    from tuner.peers.beside import Beside
    from tuner.tune.result import CellResult, HeldOut, Pace, TuneResult


# A floor above this hides gains that matter.
NOISY = 0.05
_COLUMNS = ("> tokens", "> default", "> time", "> speed-up", "> rate", "> of ceiling")


@dataclass(frozen=True)
class Ended:
    """A session that has ended: what it found, what was measured beside it, how long the tuning took (s), and
    what to type next."""

    problem: Problem
    target: Target
    result: TuneResult
    beside: Beside
    took_s: float
    next: Sequence[str]


def parts(ended: Ended, level: int) -> Iterator[str | Table]:
    """What is printed: the table alone (level -1), with what it means (0), with all that is known (1)."""
    result = ended.result
    if level >= 0:
        yield ended.problem.describe()
    yield from answer.tables(result.cells, ended.beside.rows, ended.took_s)
    if level >= 0:
        yield from answer.sentences(result.cells, ended.took_s)
        yield from filter(None, [ended.beside.left_out])
        yield from _serving(result)
    if level > 0:
        yield from _details(result)
    if level >= 0:
        yield ""
        yield "What to type next, to ask for the best kernel and to run it:"


def _serving(result: TuneResult) -> Iterator[str]:
    """Which kernel serves which numbers of tokens, where more than one is kept."""
    letters = _letters(result)
    if len(letters) > 1 and not all(cell.is_default for cell in result.cells):
        for name, letter in letters.items():
            yield f"kernel {letter}: {_kernel(result, name)}"
        yield from _rules(result, letters)
        if result.mean_regret > 1:
            yield _regret(result)
    if result.held_out:
        yield from (_held_out(row, letters) for row in result.held_out)
        middle = statistics.median(row.regret for row in result.held_out)
        yield f"held out: loses {percent(middle)} in the median of {len(result.held_out)}"


def _kernel(result: TuneResult, name: str) -> str:
    """What a kept kernel is, in words: what it changes of the default of a cell in which it runs."""
    cell = next((cell for cell in result.cells if cell.winner == name), None)
    if cell is None or cell.is_default:
        return "the template's default"
    return answer.changed(cell)


def _details(result: TuneResult) -> Iterator[str | Table]:
    """Rates, intervals, names, noise and pace."""
    yield screen.table(_COLUMNS, [_row(cell) for cell in result.cells])
    if len(result.cells) > 1:
        yield matrix(result)
    for name, letter in _letters(result).items():
        yield f"kernel {letter} is {name}"
    for name in dict.fromkeys(cell.default for cell in result.cells):
        yield f"a default is {name}"
    yield _floors(result)
    yield _pace(result.pace)


def _row(result: CellResult) -> tuple[str, ...]:
    load = "" if result.workload.load == "uniform" else f" {result.workload.load}"
    return (
        f"{result.workload.tokens}{load}",
        words.duration(result.default_median_ns),
        words.duration(result.median_ns),
        words.times(*_speed_up(result)),
        words.rate(result.ceiling, result.gflop_s, result.gb_s),
        f"{words.percent(result.ceiling_fraction)} of {result.ceiling}",
    )


def _speed_up(result: CellResult) -> tuple[float, float, float]:
    return words.speed_up(result.ratio, result.ratio_low, result.ratio_high)


def to_json(ended: Ended) -> dict[str, Any]:
    """The whole outcome for programs; docs/tune.md lists the fields."""
    result = ended.result
    told = {
        "problem": ended.problem.key, "name": ended.problem.name, "target": ended.target.key,
        "took_s": ended.took_s,
    }  # fmt: skip
    cells = [_cell(cell, ended) for cell in result.cells]
    whole = {**asdict(result), "per_minute": result.pace.per_minute, "cells": cells}
    return {**told, **whole, "peers_left_out": ended.beside.left_out, "next": list(ended.next)}


def _cell(result: CellResult, ended: Ended) -> dict[str, Any]:
    speedup, low, high = _speed_up(result)
    fields = asdict(result)
    del fields["workload"]
    default, winner = parse(result.default), parse(result.winner)
    found = answer.gain(result, ended.took_s)
    return {
        "tokens": result.workload.tokens,
        "load": result.workload.load,
        **fields,
        "speedup": speedup,
        "speedup_low": low,
        "speedup_high": high,
        "changes": changes(default.config, winner.config),
        "loaded": result.loaded,
        "limit": answer.limit(result),
        "tuning": found.word,
        "tuning_told": found.sentence,
        "peers": [asdict(row) for row in ended.beside.rows.get(result.workload, ())],
    }


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
    where = f"{words.counted(worst.workload.tokens, 'token')}, {worst.workload.load}"
    return (
        f"cost of shipping {words.counted(len(result.kept), 'kernel')} instead of the best for each row: "
        f"{percent(result.mean_regret)} in the weighted mean, at most {percent(worst.regret)} ({where})"
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
