"""Importance: which parameters decided the speed of a cell's trials, by PED-ANOVA.

Watanabe, Bansal and Hutter 2023, https://arxiv.org/abs/2304.10255, in optuna's implementation. With
``tuner.search.optuna_samplers`` this is the only file that knows optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

# PED-ANOVA compares the best trials with all of them. Optuna's reference asks for five of the best or
# more; where the best are more than a quarter of all, they hardly differ from the rest.
LEAST_BEST = 5
LARGEST_SHARE = 0.25
BEST_SHARE = 0.1
LEAST_TRIALS = math.ceil(LEAST_BEST / LARGEST_SHARE)

optuna.logging.set_verbosity(optuna.logging.WARNING)

Sample = tuple[Mapping[str, int], float]


@dataclass(frozen=True)
class Importances:
    """How much each parameter has to do with being among the best.

    Attributes:
        trials: how many were looked at.
        best_share: the part of them that counts as the best.
        values: parameter -> share of the importance, falling, summing to 1; empty where there were
            fewer than LEAST_TRIALS trials, or no parameter had two values.
    """

    trials: int
    best_share: float
    values: dict[str, float]

    @property
    def too_few(self) -> bool:
        return self.trials < LEAST_TRIALS


def importances(samples: Sequence[Sample]) -> Importances:
    """Of configurations with their ratio (time / the default's), all of the same parameters.

    Values count as ordered, as in the search: a parameter is the rank of its value among those that
    were tried, and the value of a trial is the logarithm of its ratio.
    """
    share = max(BEST_SHARE, LEAST_BEST / max(len(samples), 1))
    tried = _tried([config for config, _ in samples])
    if len(samples) < LEAST_TRIALS or not tried:
        return Importances(len(samples), min(share, 1.0), {})
    study = optuna.create_study()
    study.add_trials(_trial(tried, config, ratio) for config, ratio in samples)
    evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
    return Importances(len(samples), share, get_param_importances(study, evaluator=evaluator))


def _tried(configs: Sequence[Mapping[str, int]]) -> dict[str, list[int]]:
    """The parameters that took several values, with these in order."""
    names = configs[0] if configs else {}
    values = {name: sorted({config[name] for config in configs}) for name in names}
    return {name: ordered for name, ordered in values.items() if len(ordered) > 1}


def _trial(
    tried: Mapping[str, list[int]], config: Mapping[str, int], ratio: float
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        params={name: ordered.index(config[name]) for name, ordered in tried.items()},
        distributions={
            name: optuna.distributions.IntDistribution(0, len(ordered) - 1)
            for name, ordered in tried.items()
        },
        value=math.log(ratio),
    )
