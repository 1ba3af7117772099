"""Search: which configuration to try next. The only file that knows optuna.

Values are ordered, so each parameter is an integer: the index of its value. Restrictions and
failures are constraints of a trial, so that the sampler leaves the region; what was tried
before is told from memory and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import optuna

from tuner.space import Config, Space

# Suggestions in a row that were invalid or known before the search says that it is done.
MOST_REPEATS = 500
# What an infeasible trial is worth: a hundred times the default's time, as a logarithm.
FAILED = math.log(100.0)
STARTUP_TRIALS = 8

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Suggestion:
    """A configuration to try; `number` is the sampler's own trial number."""

    config: Config
    number: int


class Search:
    """Ask and tell over one space; objective: time of a candidate / time of the default."""

    def __init__(self, space: Space, seed: int) -> None:
        self.space = space
        sampler = optuna.samplers.TPESampler(
            multivariate=True, n_startup_trials=STARTUP_TRIALS, seed=seed, constant_liar=True
        )
        self._study = optuna.create_study(sampler=sampler)
        self._open: dict[int, optuna.Trial] = {}
        self._known: dict[tuple[int, ...], float | None] = {}

    def ask(self) -> Suggestion | None:
        """The next configuration that is valid and new; None when none was found."""
        for _ in range(MOST_REPEATS):
            trial = self._study.ask()
            config = self._config(trial)
            restriction = self.space.broken(config)
            if restriction is not None:
                self._finish(trial, None, restriction.rule)
            elif self._key(config) in self._known:
                self._finish(trial, self._known[self._key(config)], "failed before")
            else:
                self._known[self._key(config)] = None
                self._open[trial.number] = trial
                return Suggestion(config, trial.number)
        return None

    def tell(self, suggestion: Suggestion, ratio: float | None) -> None:
        """The outcome of a suggestion: its ratio to the default, or None when it failed."""
        self._known[self._key(suggestion.config)] = ratio
        self._finish(self._open.pop(suggestion.number), ratio, "failed")

    def remember(self, config: Mapping[str, int], ratio: float | None) -> None:
        """A configuration that was tried earlier; one outside the space is left out."""
        if any(config.get(name) not in values for name, values in self.space.values.items()):
            return
        self._known[self._key(config)] = ratio
        trial = optuna.trial.create_trial(
            params=self._indices(config),
            distributions={
                name: optuna.distributions.IntDistribution(0, len(values) - 1)
                for name, values in self._free.items()
            },
            value=FAILED if ratio is None else math.log(ratio),
            constraints={"failed": 1.0} if ratio is None else {},
        )
        self._study.add_trial(trial)

    def enqueue(self, config: Mapping[str, int]) -> None:
        """Asks for this configuration before others, if it lies in the space and is new."""
        inside = all(config.get(n) in v for n, v in self.space.values.items())
        if inside and self._key(config) not in self._known:
            self._study.enqueue_trial(self._indices(config), skip_if_exists=True)

    @property
    def _free(self) -> dict[str, tuple[int, ...]]:
        return {name: v for name, v in self.space.values.items() if len(v) > 1}

    def _config(self, trial: optuna.Trial) -> Config:
        free = {
            name: values[trial.suggest_int(name, 0, len(values) - 1)]
            for name, values in self._free.items()
        }
        return {name: free.get(name, values[0]) for name, values in self.space.values.items()}

    def _indices(self, config: Mapping[str, int]) -> dict[str, int]:
        return {name: values.index(config[name]) for name, values in self._free.items()}

    def _key(self, config: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(config[name] for name in self.space.values)

    def _finish(self, trial: optuna.Trial, ratio: float | None, constraint: str) -> None:
        if ratio is None:
            trial.set_constraint(constraint, 1.0)
        self._study.tell(trial, FAILED if ratio is None else math.log(ratio))
