"""``moetune tune``: search this machine's best variants, and say what that gained and what to type next."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tuner import doctor
from tuner.cli import endings, forecast, outcome, screen, traces
from tuner.cli.commands import job
from tuner.cli.options import (
    Model,
    db_option,
    held_out,
    json_option,
    model_options,
    quoted,
    seconds,
    share,
    target_option,
    weighted_loads,
    weighted_tokens,
)
from tuner.errors import DeviceError, MoetuneError, UsageError
from tuner.offline.batch import Round
from tuner.problem import Problem, footprint
from tuner.problem.workload import Workload
from tuner.search.strategies import STRATEGIES
from tuner.store.database import Database, default_path
from tuner.store.reading import history
from tuner.target import Target, gpus, named
from tuner.tune.plan import Plan

if TYPE_CHECKING:
    from tuner.peers.beside import Beside
    from tuner.tune.result import TuneResult

# A session without --trials and --time ends after this.
DEFAULT_TIME_S = 600.0
# Variants for each token count of a job folder where --trials is not given.
OFFLINE_TRIALS = 8
# The comparison with another library takes at most so long: a share of --time, but this at least.
_BESIDE_SHARE, _BESIDE_S = 0.1, 15.0


class Interrupted(MoetuneError):
    """Ctrl-C in a session, or a signal that asks it to end."""

    def __init__(self, message: str, by: KeyboardInterrupt) -> None:
        super().__init__(message)
        self.exit_code = endings.exit_code(by)


@click.command()
@model_options
@click.option("--tokens", type=weighted_tokens, metavar="N[=WEIGHT],...",
              default="1,16,128,1024", show_default=True,
              help="Token counts to tune; from-trace: the heaviest of --load trace:FILE.")  # fmt: skip
@click.option("--load", "loads", type=weighted_loads, metavar="LOAD[=WEIGHT],...",
              default="uniform", show_default=True,
              help="Loads, each for all tokens: uniform, zipf:S, onehot, trace:FILE.")  # fmt: skip
@click.option("--keep", type=click.IntRange(min=1), default=4, show_default=True,
              help="Ship at most so many variants.")  # fmt: skip
@click.option("--held-out", type=held_out, metavar="N|LOAD,...", default=None,
              help="Token counts and loads on which the choice is checked, untuned.")  # fmt: skip
@click.option("--trials", type=click.IntRange(min=1),
              help="Trials for each token count and load, on average.")  # fmt: skip
@click.option("--time", "time_s", type=seconds, metavar="90s|10m|1h",
              help="Time for the tuning; 10m where --trials is not given either. Comparing the layer with "
                   "another library afterwards takes up to a tenth more.")  # fmt: skip
@target_option
@db_option
@click.option("--weights", "temperature", type=click.Choice(["auto", "cold", "warm"]), default="auto",
              help="Caches emptied before each call or not; auto: cold up to 16 tokens.")  # fmt: skip
@click.option("--noise-floor", type=share, metavar="2%|0.02",
              help="Smallest gain that counts; measured when not given.")  # fmt: skip
@click.option("--cores", type=click.IntRange(min=1),
              help="Tune for so many cores; builds run on the others meanwhile. With --offline: of the "
                   "machine that has the target.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the search and of the random weights.")  # fmt: skip
@click.option("--sampler", type=click.Choice(list(STRATEGIES)), default="auto", show_default=True,
              help="How the next variant is chosen.")  # fmt: skip
@click.option("--template", default="", metavar="NAME",
              help="Search this template alone, not all that serve the layer.")  # fmt: skip
@click.option("--offline", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="Measure nothing: write a job folder for the machine that has the target.")  # fmt: skip
@click.option("--most-mib", type=click.IntRange(min=1), default=64, show_default=True,
              help="With --offline: the largest job folder.")  # fmt: skip
@click.option("--peers/--no-peers", "peers", default=None,
              help="Compare with all libraries that are installed, or with none; the first that can run the "
                   "layer (NumPy, for float32) unless given.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress, and the table alone.")
@click.option("-v", "--verbose", is_flag=True,
              help="Also names, intervals, rates, the noise, and where the time went.")  # fmt: skip
@click.option(
    "--dry-run", is_flag=True, help="Say what it would do and how long that takes; do nothing."
)
@json_option
def tune(
    model: Model,
    tokens: dict[int, float],
    loads: dict[str, float],
    keep: int,
    held_out: tuple[tuple[int, ...], tuple[str, ...]] | None,
    trials: int | None,
    time_s: float | None,
    target: str,
    db: Path | None,
    temperature: str,
    noise_floor: float | None,
    cores: int | None,
    seed: int,
    sampler: str,
    template: str,
    offline: Path | None,
    most_mib: int,
    peers: bool | None,
    quiet: bool,
    verbose: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Search the fastest kernels and record them.

    Every trial is stored as it ends: stopped at any moment, the same command goes on.
    """
    from tuner.tune import run as stage  # it brings the search's engine, which takes a moment
    from tuner.tune.estimate import TimeLeft, estimate

    if trials is None and time_s is None:
        time_s = DEFAULT_TIME_S
    loads, tokens, about_trace = traces.resolve(model.problem, loads, tokens)
    if about_trace:
        screen.echo(about_trace, err=True)
    plan = Plan(
        tuple(tokens), tuple(loads), trials, time_s, seed, temperature, keep, noise_floor,
        tokens, loads, _untuned(tokens, loads, *(held_out or ((), ()))), sampler=sampler,
        template=template,
    )  # fmt: skip
    doctor.require_toolchain()
    hardware = named(target)
    if offline is not None:
        if dry_run:
            raise UsageError(
                "--dry-run: is for sessions on this machine; leave it out with --offline"
            )
        _offline(model, hardware, db, plan, offline, most_mib, cores, as_json)
        return
    if hardware.kind == "gpu":
        _require_gpu(hardware, target)
    if cores is not None:
        hardware = dataclasses.replace(hardware, cores=min(cores, hardware.cores))
    if dry_run:
        with history(db or default_path()) as database:
            forecast.show(model.problem, estimate(model.problem, hardware, database, plan), as_json)
        if lacking := lacking_memory(model.problem, hardware):
            screen.echo(f"a session would be refused here: {lacking}", err=True)
        return
    check_memory(model.problem, hardware)
    try:
        with Database(db) as database:
            expected = estimate(model.problem, hardware, database, plan)
            if short := forecast.shortage(expected):
                screen.echo(short, err=True)
            start = time.monotonic()
            with screen.TuneProgress(TimeLeft(expected), quiet) as progress:
                result = stage.tune(model.problem, hardware, database, plan, progress)
            took_s = time.monotonic() - start
            found = _beside(model.problem, hardware, database, result, peers, time_s)
    except KeyboardInterrupt as error:
        message = "stopped; everything measured is kept, and the same command goes on from there"
        raise Interrupted(message, error) from None
    lines = next_lines(model, plan.tokens[0], plan.loads[0], target, db)
    ended = outcome.Ended(model.problem, hardware, result, found, took_s, lines)
    if as_json:
        screen.echo(json.dumps(outcome.to_json(ended), indent=2))
        return
    for part in outcome.parts(ended, -1 if quiet else int(verbose)):
        screen.show(part)
    for line in [] if quiet else lines:
        screen.echo(line)


def _beside(
    problem: Problem,
    target: Target,
    database: Database,
    result: TuneResult,
    peers: bool | None,
    time_s: float | None,
) -> Beside:
    """The layer, as it is tuned now, next to other libraries."""
    from tuner.peers import beside

    if peers is False:
        return beside.Beside({})
    took_ns = {cell.workload: cell.median_ns for cell in result.cells}
    share_s = max(_BESIDE_S, _BESIDE_SHARE * (time_s or 0.0))
    return beside.beside(
        problem, target, database, took_ns, everything=bool(peers), time_s=share_s,
        session=result.session,
    )  # fmt: skip


def _require_gpu(target: Target, name: str) -> None:
    """Refuse a GPU that is not in this machine."""
    from tuner.measure.cuda_bench import of_target

    try:
        of_target(target)
    except DeviceError as error:
        raise UsageError(
            f"--target {name}: is measured on another machine; run this where that GPU is, or add "
            "--offline DIR for a job folder"
        ) from error


def _offline(
    model: Model,
    target: Target,
    db: Path | None,
    plan: Plan,
    folder: Path,
    most_mib: int,
    cores: int | None,
    as_json: bool,
) -> None:
    """A job folder of one load: its runner races all token counts under the same one."""
    if len(plan.loads) > 1:
        raise UsageError("--offline: one --load a job; make a folder for each")
    trials = plan.trials or OFFLINE_TRIALS
    asked = Round(
        plan.tokens, plan.loads[0], trials, plan.seed, plan.sampler, most_mib << 20, cores,
        plan.temperature, plan.template,
    )  # fmt: skip
    job.make(model, target, db, asked, folder, as_json)


def _untuned(
    tokens: Collection[int], loads: Collection[str], counts: Sequence[int], others: Sequence[str]
) -> tuple[Workload, ...]:
    """The workloads held out: other token counts under the loads, other loads at the token counts."""
    pairs = [(count, load) for count in counts for load in loads]
    pairs += [(count, load) for count in tokens for load in others]
    tuned = {(count, load) for count in tokens for load in loads}
    return tuple(Workload(*pair) for pair in dict.fromkeys(pairs) if pair not in tuned)


def check_memory(problem: Problem, target: Target) -> None:
    """Refuse weights that would not fit: the system would end the process, without a word."""
    if lacking := lacking_memory(problem, target):
        raise UsageError(lacking)


def lacking_memory(problem: Problem, target: Target) -> str:
    """What to say where the weights do not fit into this machine's memory; empty where they do."""
    from tuner.measure.cpu_bench import MOST_PACKED

    # A GPU's packed form is made here once, and then lies in its own memory.
    copies = 1 + (MOST_PACKED if target.kind == "cpu" else 1)
    need = copies * footprint.weights_bytes(problem)
    have = footprint.available_bytes()
    if need <= have:
        return ""
    experts = footprint.experts_that_fit(problem, copies, have)
    mend = f"use --experts {experts}" if experts else "use a larger machine"
    return (
        f"{problem.name or 'the layer'}: {copies} copies of its weights (as given and packed) take "
        f"{need / 2**30:.1f} GiB, {have / 2**30:.1f} GiB are free; {mend}"
    )


def next_lines(
    model: Model, tokens: int, load: str, target: str, db: Path | None
) -> tuple[str, str]:
    """Two lines for a shell: what queries the result, and what loads and runs it."""
    query = [_program("moetune"), "best", *model.words, "--tokens", str(tokens)]
    query += ["--load", load] if load != "uniform" else []
    query += ["--target", target] if target != "host" else []
    query += ["--db", str(db)] if db else []
    arguments = ["problem", "tuner.Weights.random(problem, seed=0)"]
    arguments += [f"load={quoted(load)}"] if load != "uniform" else []
    if target in gpus.CARDS:
        arguments += ['device="cuda:0"']
    elif target != "host":
        arguments += [f"target=tuner.target.named({quoted(target)})"]
    arguments += [f"db={quoted(str(db))}"] if db else []
    program = (
        f"import tuner; problem = {model.python}; "
        f"layer = tuner.load({', '.join(arguments)}); "
        f"print(layer.selection({tokens}).variant)"
    )
    return shlex.join(query), shlex.join([_program("python"), "-c", program])


def _program(name: str) -> str:
    """How to call a program of this environment: by path where a venv is not activated."""
    path = Path(sys.executable).with_name(name)
    active = sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix
    if active or not os.access(path, os.X_OK):
        return name
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
