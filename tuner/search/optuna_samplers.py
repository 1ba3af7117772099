"""Samplers: optuna's, over the ordered values of a space. The only file that knows optuna for searching.

Values are ordered, so each parameter is an integer, the index of its value. What a sampler suggests
may be invalid or known; the search sorts that out and tells it here.
"""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec

import optuna

from tuner.errors import UsageError
from tuner.space import neighbours
from tuner.space.failure import FAILURES
from tuner.space.space import Config, Restriction, Space

STARTUP_TRIALS = 8
# Suggestions in a row that are invalid or known before the search moves on by itself.
MISSES = 20
# What an infeasible trial is worth: a hundred times the default's time, as a logarithm.
FAILED = math.log(100.0)

RESTRICTION = "restriction"
CONSTRAINTS = (RESTRICTION, *FAILURES)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Sampler:
    """One of optuna's samplers: `tpe`, `gp` or `random`; the objective is log(time / default's time)."""

    def __init__(self, space: Space, name: str, seed: int) -> None:
        self._space = space
        self._values = neighbours.free(space)
        self._distributions: dict[str, optuna.distributions.BaseDistribution] = {
            n: optuna.distributions.IntDistribution(0, len(v) - 1) for n, v in self._values.items()
        }
        self._study = optuna.create_study(sampler=_sampler(name, seed))
        self._open: dict[tuple[int, ...], optuna.Trial] = {}

    def propose(self, is_new: neighbours.Test) -> Config | None:
        """What the sampler suggests, or where it keeps to what is no use, the nearest point that is new."""
        config: Config = {}
        for _ in range(MISSES):
            trial = self._study.ask(self._distributions)
            config = self._config(trial)
            if is_new(config):
                self._open[neighbours.key(self._space, config)] = trial
                return config
            self._drop(trial, self._space.broken(config))
        return neighbours.nearest(self._space, config, is_new)

    def _config(self, trial: optuna.Trial) -> Config:
        config = {name: values[0] for name, values in self._space.values.items()}
        chosen = {name: v[trial.params[name]] for name, v in self._values.items()}
        return self._space.canonical(config | chosen)

    def _drop(self, trial: optuna.Trial, broken: Restriction | None) -> None:
        """A suggestion that is not tried: it breaks a restriction, or is known already."""
        if broken is None:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            self._finish(trial, None, RESTRICTION)

    def _finish(self, trial: optuna.Trial, ratio: float | None, failure: str) -> None:
        for name, value in _constraints(ratio, failure).items():
            trial.set_constraint(name, value)
        self._study.tell(trial, _value(ratio))

    def tell(self, config: Config, ratio: float | None, failure: str) -> None:
        """The outcome of a configuration, suggested here or not; `failure` names the constraint."""
        trial = self._open.pop(neighbours.key(self._space, config), None)
        if trial is not None:
            self._finish(trial, ratio, failure)
            return
        self._study.add_trial(
            optuna.trial.create_trial(
                params=neighbours.places(self._space, config),
                distributions=self._distributions,
                value=_value(ratio),
                constraints=_constraints(ratio, failure),
            )
        )


def _value(ratio: float | None) -> float:
    return FAILED if ratio is None else math.log(ratio)


def _constraints(ratio: float | None, failure: str) -> dict[str, float]:
    """One for each kind of failure, above 0 where it came. GPSampler wants all of them in every trial."""
    return {name: float(ratio is None and name == failure) for name in CONSTRAINTS}


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "gp":
        _require("gp", "torch", "scipy")
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    with warnings.catch_warnings():  # multivariate and constant_liar are called experimental
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True
        )


def _require(sampler: str, *packages: str) -> None:
    lacking = [name for name in packages if find_spec(name) is None]
    if lacking:
        raise UsageError(
            f"--sampler {sampler}: needs {' and '.join(lacking)}; "
            f"pip install {' '.join(lacking)}, or use --sampler auto"
        )
