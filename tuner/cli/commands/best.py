"""``moetune best``: ask for the best configuration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import click

from tuner.cli import screen, traces
from tuner.cli.options import (
    Model,
    db_option,
    json_option,
    load_option,
    model_options,
    target_option,
)
from tuner.client import Client
from tuner.errors import UsageError
from tuner.report import words
from tuner.select.select import best_config
from tuner.select.selection import Selection
from tuner.target import Target, named


@click.command()
@model_options
@click.option("--tokens", type=click.IntRange(min=0), required=True, help="Tokens of one call.")
@load_option
@target_option
@db_option
@click.option("--from", "url", metavar="URL",
              help="Ask a `moetune serve`, not a database; falls back to its last answer when "
                   "unreachable.")  # fmt: skip
@json_option
def best(
    model: Model,
    tokens: int,
    load: str,
    target: str,
    db: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Say which kernel to run, and why."""
    load = traces.named(model.problem, load)
    if url is not None and db is not None:
        raise UsageError("--from and --db: both given; name one of them")
    if url is not None:
        selection = Client(url).best_config(model.problem, tokens, load, named(target))
    else:
        selection = best_config(model.problem, tokens, load, named(target), db)
    if as_json:
        screen.echo(json.dumps(selection.to_json(), indent=2, allow_nan=False))
        return
    for name, text in _lines(selection):
        screen.echo(f"{name:9} {text}")


def _lines(selection: Selection) -> Iterator[tuple[str, str]]:
    yield "variant", selection.variant
    yield "match", f"{selection.match}: {selection.reason}"
    if selection.source == "shipped":
        yield "source", "moetune brings it; `moetune tune` finds the winner of this machine"
    yield "config", ", ".join(f"{name} {value}" for name, value in selection.config.items())
    yield "compile", f"for {selection.arch}"
    if not selection.evidence:
        yield "evidence", "none; `moetune tune` makes it"
        return
    row = selection.evidence
    yield "evidence", ", ".join(filter(None, _evidence(selection)))
    yield "measured", f"{row['created']} on {Target.from_key(row['target']).describe()}"


def _evidence(selection: Selection) -> Iterator[str]:
    row = selection.evidence
    if row["is_default"]:
        yield "the template's default, which nothing beat"
    else:
        speed_up = words.times(*words.speed_up(row["ratio"], row["ratio_low"], row["ratio_high"]))
        yield f"{speed_up} of the default's speed"
    yield f"median {words.duration(row['median_ns'])} {row['temperature'] or ''}".strip()
    yield words.rate(row["ceiling"] or "", row["gflop_s"], row["gb_s"])
    yield words.share_of(row["ceiling"] or "", row["ceiling_fraction"])
