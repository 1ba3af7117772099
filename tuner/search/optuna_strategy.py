"""The strategies `tpe`, `gp` and `random`: optuna's samplers, which take a moment to import."""

from __future__ import annotations

import functools

from tuner.search.proposer import Proposer, Strategy
from tuner.space.space import Space


def _sampled(name: str, space: Space, seed: int, trials: int | None) -> Proposer:
    from tuner.search.optuna_samplers import Sampler

    return Sampler(space, name, seed)


STRATEGIES: dict[str, Strategy] = {
    name: functools.partial(_sampled, name) for name in ("tpe", "gp", "random")
}
