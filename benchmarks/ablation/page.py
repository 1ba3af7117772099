"""Page: the stored cells as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from tuner.host.interference import FOREIGN_LIMIT

# The least gain that is claimed.
NOISE = 0.03

Data = Mapping[str, Any]


def page(data: Data) -> str:
    """Everything that was stored, for people: facts, one table a model, and what stands behind its numbers."""
    about = data["about"]
    facts = [f"- {name}: {text}" for name, text in about.items() if name != "command"]
    lines = [
        *facts,
        f"- repeat: `{about['command']}`",
        "",
        "Time with the idea switched off / time of the full kernel: median of paired, interleaved rounds",
        "with its 95 % interval. `nothing` is a copy of the full kernel raced against it: what is no further",
        f"from 1 than that, or than {100 * NOISE:.0f} %, is noise.",
    ]
    for model, cells in groupby(data["cells"], key=lambda cell: cell["model"]):
        lines += ["", *_model(model, list(cells))]
    return "\n".join(lines)


def _model(model: str, cells: Sequence[Data]) -> list[str]:
    return [
        f"### {model}",
        "",
        *table(cells),
        "",
        *(_full(cell) for cell in cells),
        *_disturbed(cells),
        *_forms(cells),
    ]


def table(cells: Sequence[Data]) -> list[str]:
    """One line for each idea and load, one column for each number of tokens."""
    titles = ["idea", "switched off", *(_title(cell) for cell in cells)]
    lines = [titles, ["---"] * 2 + ["---:"] * len(cells)]
    for key in _keys(cells):
        rows = [_find(cell, key) for cell in cells]
        first = next(row for row in rows if row)
        usual = {cell["load"] for cell in cells}
        under = "" if first["load"] in usual else f", load {first['load']}"
        lines.append([first["idea"], first["off"] + under, *(_ratio(row) for row in rows)])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _title(cell: Data) -> str:
    return f"T={cell['tokens']} ({cell['temperature']})"


def _keys(cells: Iterable[Data]) -> list[tuple[str, str, str]]:
    """What tells the lines apart; the same idea may be switched off differently in another cell."""
    return list(dict.fromkeys(_key(row) for cell in cells for row in cell["rows"]))


def _key(row: Data) -> tuple[str, str, str]:
    return row["key"], row["off"], row["load"]


def _find(cell: Data, key: tuple[str, str, str]) -> Data | None:
    return next((row for row in cell["rows"] if _key(row) == key), None)


def _ratio(row: Data | None) -> str:
    if row is None:
        return "-"
    if row["why_not"]:
        return row["why_not"]  # type: ignore[no-any-return]
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _full(cell: Data) -> str:
    time = f"{cell['full_median_ns'] / 1e6:.3g} ms, {cell['rounds']} rounds"
    return f"- {_title(cell)}: full kernel `{cell['full']}`, {time}; {cell['chosen']}"


def _disturbed(cells: Iterable[Data]) -> list[str]:
    busy = [f"{_title(c)} ({c['foreign']:.0%})" for c in cells if c["foreign"] > FOREIGN_LIMIT]
    return [f"- disturbed by other processes, measure again: {', '.join(busy)}"] if busy else []


def _forms(cells: Iterable[Data]) -> list[str]:
    """What the switched-off kernels changed, where they were not the only form."""
    lines = []
    for cell in cells:
        told = [
            f"{row['off']}: {row['form']} (of {row['forms']} forms)"
            for row in cell["rows"]
            if row["forms"] > 1
        ]
        lines += [f"- {_title(cell)}, the fastest form: {'; '.join(told)}"] if told else []
    return lines
