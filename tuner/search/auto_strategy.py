"""The strategy `auto`: lists a space instead of modelling it when all of it fits into the trials planned."""

from __future__ import annotations

from itertools import islice

from tuner.search.model_strategy import LISTED, SurrogateModel
from tuner.search.order_strategy import brute
from tuner.search.proposer import Proposer, Strategy
from tuner.space.space import Space

# Where time is what is planned, a space is listed if it has at most FEW points (some five minutes); in
# no case of more than MANY: the model's order finds the best ones so much sooner that a session may end early.
FEW = 64
MANY = 200


def _auto(space: Space, seed: int, trials: int | None) -> Proposer:
    bound = min(FEW if trials is None else trials, MANY)
    if space.size() <= LISTED and len(list(islice(space.points(), bound + 1))) <= bound:
        return brute(space, seed, trials)
    return SurrogateModel(space, seed)


STRATEGIES: dict[str, Strategy] = {"auto": _auto}
