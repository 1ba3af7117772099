"""Kernel Tuner's own strategies on a recorded grid, in its simulation mode. Knows kernel_tuner alone.

Its simulation reads a cache file of its own form: a header, and the result of each configuration under
its values with commas between them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tuner.errors import UsageError
from tuner.search.replay import Grid, RecordedTrial

STRATEGIES = (
    "random_sample", "genetic_algorithm", "simulated_annealing", "bayes_opt", "greedy_ils", "diff_evo",
)  # fmt: skip
# Our kinds of failure -> the name of its error class that stands for a time.
_ERRORS = {
    "compile": "CompilationFailedConfig",
    "build_timeout": "CompilationFailedConfig",
    "invalid": "InvalidConfig",
}


def installed() -> bool:
    return importlib.util.find_spec("kernel_tuner") is not None


def write_cache(grid: Grid, path: Path) -> None:
    """The grid as a cache file of Kernel Tuner; parameters without a choice are left out."""
    names = [name for name, values in grid.space.values.items() if len(values) > 1]
    cache = {}
    for config in grid.space.points():
        values = {name: config[name] for name in names}
        cache[",".join(map(str, values.values()))] = values | _result(grid.answer(config))
    content = {
        "device_name": grid.about.get("target_name", ""),
        "kernel_name": grid.space.template,
        "problem_size": [1],
        "tune_params_keys": names,
        "tune_params": {name: list(grid.space.values[name]) for name in names},
        "objective": "time",
        "cache": cache,
    }
    path.write_text(json.dumps(content))


def _result(answer: RecordedTrial) -> dict[str, Any]:
    """The objective is the ratio, as for every other search here: it holds when the machine drifts."""
    if answer.ratio is None:
        return {"time": _ERRORS.get(answer.failure, "RuntimeFailedConfig")}
    times = dict.fromkeys(("compile_time", "verification_time", "benchmark_time"), 0.0)
    return {"time": answer.ratio, "times": [answer.ratio], **times}


def run(grid: Grid, cache: Path, strategy: str, seed: int, trials: int) -> list[dict[str, int]]:
    """The configurations that a strategy tries, each once, in its order; at most `trials`.

    Raises UsageError where the strategy is not known.
    """
    import constraint
    import kernel_tuner
    from kernel_tuner.util import infer_args_from_cache, read_cache

    if strategy not in STRATEGIES:
        raise UsageError(f"{strategy}: not known; use {', '.join(STRATEGIES)}")
    arguments = infer_args_from_cache(read_cache(str(cache), open_cache=False))
    names = list(arguments["tune_params"])
    valid = {tuple(config[name] for name in names) for config in grid.space.points()}
    random.seed(seed)
    np.random.seed(seed)  # its strategies draw from both
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results, _ = kernel_tuner.tune_kernel(
            **arguments,
            restrictions=[constraint.FunctionConstraint(lambda *values: values in valid)],
            strategy=strategy,
            strategy_options={"max_fevals": trials},
            cache=str(cache),
            simulation_mode=True,
            quiet=True,
        )
    tried = {_key(result, names): result for result in results if result}
    fixed = {name: values[0] for name, values in grid.space.values.items()}
    return [fixed | {name: result[name] for name in names} for result in tried.values()]


def _key(params: Mapping[str, Any], names: list[str]) -> tuple[int, ...]:
    return tuple(int(params[name]) for name in names)
