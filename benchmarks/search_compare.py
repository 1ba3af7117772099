"""How many trials searches need on recorded grids: ours, optuna's, Kernel Tuner's.

    python benchmarks/search_compare.py benchmarks/data/*.t4.json.gz --plot docs/results/search.svg
    python benchmarks/search_compare.py GRID.t4.json.gz --method "ours, random start" --method "grid order"

Nothing is compiled or timed: each search is answered from the file. A trial is a configuration that was not
tried before and breaks no restriction; repeats and invalid suggestions are free for everybody.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import kernel_tuner_peer
import optuna

from tuner.errors import MoetuneError, UsageError
from tuner.search import replay
from tuner.search.replay import Grid
from tuner.search.search import Search
from tuner.space.space import Config
from tuner.tune.builder import BATCH_PER_BUILDER

# The goal: within 5 % of the grid's best in at most 40 trials.
GOAL_TRIALS = 40
_BATCH = 2 * BATCH_PER_BUILDER
WITHIN = (0.05, 0.02)

# A method gives the configurations that it tries, in order: of a grid, a seed, at most so many.
Method = Callable[[Grid, int, int], Sequence[Mapping[str, int]]]
# Trials that each seed needed; infinite where the last one came first.
Needed = list[float]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        grids = {path.name.partition(".")[0]: replay.load(path) for path in options.grids}
        compare(grids, options)
    except MoetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="searches side by side on recorded grids")
    result.add_argument("grids", type=Path, nargs="+", help="files of benchmarks/record_grid.py")
    result.add_argument("--seeds", type=int, default=20)
    result.add_argument(
        "--trials", type=int, default=200, help="a search that needs more has failed"
    )
    result.add_argument(
        "--method", action="append", help="one of the table's; may be repeated; all unless given"
    )
    result.add_argument("--plot", type=Path, help="write a picture, too")
    return result


def compare(grids: Mapping[str, Grid], options: argparse.Namespace) -> None:
    found: dict[str, dict[str, dict[float, Needed]]] = {}
    with tempfile.TemporaryDirectory(prefix="moetune-") as folder:
        known = {name: methods(name, grids, Path(folder)) for name in grids}
        asked = chosen(options.method, known)
        for name, grid in grids.items():
            found[name] = {}
            for method in (m for m in known[name] if m in asked):
                print(f"{name}: {method}", file=sys.stderr, flush=True)
                found[name][method] = needed(grid, known[name][method], options)
            print("\n".join(page(name, grid, found[name], options)), flush=True)
    if options.plot:
        plot(found, options)


def chosen(asked: Sequence[str] | None, known: Mapping[str, Mapping[str, Method]]) -> Sequence[str]:
    """The names of the methods to compare, all unless some are asked for; not every grid has each.

    Raises:
        UsageError: no grid has one of that name.
    """
    names = list(dict.fromkeys(name for of_grid in known.values() for name in of_grid))
    for name in asked or ():
        if name not in names:
            raise UsageError(f"method={name!r}: not known; use {'; '.join(names)}")
    return asked or names


def needed(grid: Grid, method: Method, options: argparse.Namespace) -> dict[float, Needed]:
    """For each closeness of WITHIN the trials that each seed needed."""
    result: dict[float, Needed] = {within: [] for within in WITHIN}
    for seed in range(options.seeds):
        ratios = [grid.answer(c).ratio for c in method(grid, seed, options.trials)]
        for within in WITHIN:
            result[within].append(replay.trials_to(grid, ratios, within) or math.inf)
    return result


def methods(name: str, grids: Mapping[str, Grid], folder: Path) -> dict[str, Method]:
    """Every search to compare on one grid, by its name in the table."""
    grid = grids[name]
    result: dict[str, Method] = {
        "ours": ours,
        "ours, random start": ours_from_anywhere,
        "ours from a random start by six": _six_at_a_time,
    }
    for other in grids:
        if other != name:
            result[f"ours, warm from {other}"] = _warm(grids[other])
    result |= {
        "tpe, ordinal": _with_sampler("tpe"),
        "optuna random": _optuna(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
        "optuna TPE": _optuna(lambda seed: optuna.samplers.TPESampler(seed=seed)),
        "grid order": lambda grid, seed, trials: list(islice(grid.space.points(), trials)),
    }
    if kernel_tuner_peer.installed():
        cache = folder / f"{name}.json"
        kernel_tuner_peer.write_cache(grid, cache)
        for strategy in kernel_tuner_peer.STRATEGIES:
            result[f"Kernel Tuner {strategy}"] = _kernel_tuner(cache, strategy)
    return result


def ours(grid: Grid, seed: int, trials: int) -> list[Config]:
    """As a session runs it: the default, the starts of the space file, then the sampler `auto`."""
    return _replayed(grid, Search(grid.space, seed), trials)


def ours_from_anywhere(grid: Grid, seed: int, trials: int) -> list[Config]:
    """Without what the template's author knows: a random point in the default's place, no starts."""
    return _replayed(grid, _from_anywhere(grid, seed), trials)


def _from_anywhere(grid: Grid, seed: int) -> Search:
    anywhere = random.Random(seed).choice(list(grid.space.points()))
    return Search(dataclasses.replace(grid.space, default=anywhere, starts=()), seed)


def _six_at_a_time(grid: Grid, seed: int, trials: int) -> list[Config]:
    """The same as a session on two cores asks: the first alone, then batches whose times come together."""
    search, tried = _from_anywhere(grid, seed), list[Config]()
    while len(tried) < trials:
        count = min(_BATCH if tried else 1, trials - len(tried))
        batch = [asked for asked in (search.ask() for _ in range(count)) if asked]
        for asked in batch:
            answer = grid.answer(asked.config)
            search.tell(asked, answer.ratio, answer.failure)
        tried += [asked.config for asked in batch]
        if len(batch) < count:
            break
    return tried


def _warm(other: Grid) -> Method:
    """With the best of another grid as the first trial, as a session enqueues earlier winners."""
    timed = [c for c in other.space.points() if other.answer(c).ratio is not None]
    best = min(timed, key=lambda config: other.answer(config).ratio or math.inf)

    def method(grid: Grid, seed: int, trials: int) -> list[Config]:
        search = Search(grid.space, seed)
        search.enqueue(best)
        return _replayed(grid, search, trials)

    return method


def _with_sampler(sampler: str) -> Method:
    return lambda grid, seed, trials: _replayed(grid, Search(grid.space, seed, sampler), trials)


def _replayed(grid: Grid, search: Search, trials: int) -> list[Config]:
    return [step.config for step in replay.run(grid, search, trials)]


def _optuna(sampler: Callable[[int], optuna.samplers.BaseSampler]) -> Method:
    """Optuna by itself: every parameter categorical, no default, no starts."""

    def method(grid: Grid, seed: int, trials: int) -> list[Config]:
        study = optuna.create_study(sampler=sampler(seed))
        return list(islice(_categorical(grid, study), trials))

    return method


def _categorical(grid: Grid, study: optuna.Study) -> Iterator[Config]:
    """What is new among a study's suggestions, until nothing was for long."""
    tried: set[tuple[int, ...]] = set()
    misses = 0
    while misses < 10 * len(grid.answers):
        trial = study.ask()
        config = {n: trial.suggest_categorical(n, v) for n, v in grid.space.values.items()}
        misses += 1
        if grid.space.broken(config) is not None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        answer = grid.answer(config)
        if answer.ratio is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, answer.ratio)
        key = replay.key(grid.space, config)
        if key not in tried:
            tried.add(key)
            misses = 0
            yield config


def _kernel_tuner(cache: Path, strategy: str) -> Method:
    return lambda grid, seed, trials: kernel_tuner_peer.run(grid, cache, strategy, seed, trials)


def page(
    name: str, grid: Grid, found: Mapping[str, Mapping[float, Needed]], options: argparse.Namespace
) -> list[str]:
    """One grid's table as Markdown."""
    ratios = [answer.ratio for answer in grid.answers.values() if answer.ratio is not None]
    lines = [
        "",
        f"**{name}**: {len(grid.answers)} points, {len(ratios)} with a time; the best takes {grid.best:.3f} "
        f"of the default's time, the median {statistics.median(ratios):.2f}; "
        + ", ".join(f"{_share(grid, ratios, within):.1%} within {within:.0%}" for within in WITHIN)
        + f". {options.seeds} seeds.",
        "",
    ]
    titles = ["search"]
    for within in WITHIN:
        titles += [f"trials to {within:.0%}, median", f"worst seed, {within:.0%}"]
    titles += [f"seeds within {WITHIN[0]:.0%} in {GOAL_TRIALS} trials"]
    lines += ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return lines + [_row(method, of) for method, of in found.items()]


def _row(method: str, found: Mapping[float, Needed]) -> str:
    cells = [method]
    for within in WITHIN:
        cells += [_count(statistics.median(found[within])), _count(max(found[within]))]
    reached = sum(count <= GOAL_TRIALS for count in found[WITHIN[0]])
    return "| " + " | ".join([*cells, f"{reached} of {len(found[WITHIN[0]])}"]) + " |"


def _share(grid: Grid, ratios: Sequence[float], within: float) -> float:
    return sum(ratio <= grid.best * (1 + within) for ratio in ratios) / len(ratios)


def _count(trials: float) -> str:
    return f"{trials:g}" if math.isfinite(trials) else "never"


def plot(
    found: Mapping[str, Mapping[str, Mapping[float, Needed]]], options: argparse.Namespace
) -> None:
    """The share of seeds that came within 5 %, over the trials; one panel a grid."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(found), figsize=(6.4 * len(found) + 2.6, 4.8), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for panel, (name, of_grid) in zip(panels[0], found.items(), strict=True):
        for number, (method, of_method) in enumerate(of_grid.items()):
            ordered = sorted(count for count in of_method[WITHIN[0]] if math.isfinite(count))
            shares = [(i + 1) / options.seeds for i in range(len(ordered))]
            panel.step(
                [1, *ordered, options.trials], [0, *shares, shares[-1] if shares else 0],
                where="post", label=method, color=f"C{number % 10}",
                linewidth=2.5 if method.startswith("ours") else 1.2,
                linestyle="-" if number < 10 else "--",
            )  # fmt: skip
        panel.axvline(GOAL_TRIALS, color="0.7", linewidth=1, linestyle=":")
        panel.set(xscale="log", xlim=(1, options.trials), ylim=(0, 1.02), title=name)
        panel.set(xlabel="trials (unique configurations)")
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel(f"share of {options.seeds} seeds within {WITHIN[0]:.0%} of the best")
    # Beside the panels: the curves need all of them.
    figure.legend(*panels[0][-1].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
    figure.savefig(options.plot, metadata={"Date": None} if options.plot.suffix == ".svg" else None)
    print(f"{options.plot}: written", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
