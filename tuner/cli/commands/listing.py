"""``moetune models`` and ``moetune list``: what can be tuned, what is, and what a database holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tuner.cli import rows, screen
from tuner.cli.options import called, db_option
from tuner.problem import PRESETS, Problem
from tuner.problem.footprint import weights_bytes
from tuner.report import words
from tuner.store import listings, migrations, shipped
from tuner.store.database import Database
from tuner.store.reading import reading
from tuner.target import Target

_MODELS = ("model", "options", "D, F, E, k", "tuned here", "moetune brings")
_SIZES = ("hidden", "expert_dim", "num_experts", "top_k")
_LIST = (
    "model", "machine", "load", "tokens", "> trials", "> winners", "> best", "newest",
)  # fmt: skip

Row = Mapping[str, Any]


@click.command()
@rows.form_options
@db_option
def models(form: str, db: Path | None) -> None:
    """List the models that are known by name, and what is tuned of each.

    MODEL of other commands is a name with its options. What moetune brings serves where nothing was tuned here;
    `moetune tune MODEL` finds the winners of this machine.
    """
    with reading(db) as database:
        told = list(_models(database.best(), shipped.winners()))
    lines = [
        (
            row["model"], row["options"], ", ".join(str(row[n]) for n in _SIZES),
            _ranges(row["tuned_here"]), _ranges(row["shipped"]),
        )
        for row in told
    ]  # fmt: skip
    plain = [{**row, **{n: _counts(row[n]) for n in ("tuned_here", "shipped")}} for row in told]
    rows.show(form, told if form == "json" else plain, _MODELS, lines)


def _models(own: Iterable[Row], brought: Iterable[Row]) -> Iterator[dict[str, Any]]:
    """A row for each preset, then what was tuned of it in other types and sizes; then the other layers."""
    kept = {"tuned_here": _by_problem(own), "shipped": _by_problem(brought)}
    layers = {**kept["shipped"], **kept["tuned_here"]}
    problems = {
        id: Problem.from_key(found[0]["problem"], name=found[0]["problem_name"])
        for id, found in layers.items()
    }
    named = {problem: called(problem) for problem in (*PRESETS.values(), *problems.values())}
    order = [*PRESETS, ""]
    for problem in sorted(named, key=lambda problem: order.index(named[problem][0])):
        name, options = named[problem]
        yield {
            "model": name or problem.name or problem.digest,
            "options": options,
            **{size: getattr(problem, size) for size in _SIZES},
            "weights_bytes": weights_bytes(problem),
            **{kind: _tuned(parts.get(problem.digest, ())) for kind, parts in kept.items()},
        }


def _by_problem(found: Iterable[Row]) -> dict[str, list[Row]]:
    parts: dict[str, list[Row]] = {}
    for row in found:
        parts.setdefault(row["problem_id"], []).append(row)
    return parts


def _tuned(found: Iterable[Row]) -> dict[str, list[int]]:
    """Machine -> the token counts that were tuned there."""
    counts: dict[str, set[int]] = {}
    for row in found:
        counts.setdefault(_machine(row), set()).add(row["tokens"])
    return {machine: sorted(tokens) for machine, tokens in counts.items()}


def _machine(row: Row) -> str:
    return Target.from_key({**row["target"], "name": row["target_name"]}).label


def _ranges(tuned: Mapping[str, list[int]]) -> str:
    """Each machine with its least and greatest token count."""
    return "\n".join(f"{m} {_span(counts)}" for m, counts in tuned.items())


def _span(counts: list[int]) -> str:
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _counts(tuned: Mapping[str, list[int]]) -> str:
    return "; ".join(f"{m}: {', '.join(map(str, counts))}" for m, counts in tuned.items())


@click.command("list")
@rows.form_options
@db_option
def list_(form: str, db: Path | None) -> None:
    """List what the database holds: a row for each model, machine and load.

    Its tables and columns stand in docs/commands.md; any program that reads SQLite can read them.
    """
    with reading(db) as database:
        told = list(_held(database))
        if form == "table":
            _say_where(database)
    lines = [
        (
            row["model"], row["machine"], row["load"], _span(row["tokens"]), str(row["trials"]),
            str(row["winners"]), _speed(row["best_speed_up"]), row["newest"][:10],
        )
        for row in told
    ]  # fmt: skip
    plain = [row | {"tokens": ", ".join(map(str, row["tokens"]))} for row in told]
    if told or form != "table":
        rows.show(form, told if form == "json" else plain, _LIST, lines, titled=True)


def _say_where(database: Database) -> None:
    """The path of the database, its size and what its tables hold."""
    path = database.path
    if not path.exists():
        screen.echo(f"{path}: not there yet; `moetune tune` or `moetune import` makes it")
        return
    held = ", ".join(
        words.counted(n, name.rstrip("s")) for name, n in listings.counts(database).items()
    )
    log = path.with_name(f"{path.name}-wal")  # what was written last, while somebody has it open
    size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    screen.echo(
        f"{path}: {size / 2**20:.2f} MiB, schema {migrations.MIGRATIONS[-1].number}, {held}"
    )


def _held(database: Database) -> Iterator[dict[str, Any]]:
    """Cells that share problem, machine and load as one row."""
    won = {(w["problem_id"], w["target_id"], w["load"], w["tokens"]): w for w in database.best()}
    parts: dict[tuple[str, str, str], list[Row]] = {}
    for cell in database.workloads():
        parts.setdefault((cell["problem_id"], cell["target_id"], cell["load"]), []).append(cell)
    for key, cells in parts.items():
        winners = [won[(*key, c["tokens"])] for c in cells if (*key, c["tokens"]) in won]
        yield {
            "model": cells[0]["problem_name"] or key[0],
            "machine": _machine(cells[0]),
            "load": key[2],
            "tokens": [cell["tokens"] for cell in cells],
            "trials": sum(cell["trials"] for cell in cells),
            "winners": len(winners),
            "best_speed_up": max((words.inverse(w["ratio"]) for w in winners), default=None),
            "newest": max((w["created"] for w in winners), default=""),
            "problem_id": key[0],
            "target_id": key[1],
        }


def _speed(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"
