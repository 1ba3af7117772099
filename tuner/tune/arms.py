"""Arms: the templates that can serve a workload, searched as one choice: a variant's template is one more thing
that is tuned.

Each template has a space and a search of its own. Which is asked next is decided by the stride scheduling of
``tuner.tune.schedule``, as among the cells of a session; a template whose best variant is far behind has a
small claim, and none starves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tuner.errors import SpaceError, TemplateError, UsageError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.search.search import Search, Suggestion
from tuner.space import space as spaces
from tuner.space.space import Config, Space, SpaceFile
from tuner.space.variant import Variant, make, pack_config, pack_templates, serving
from tuner.target import Target
from tuner.tune.plan import Plan
from tuner.tune.schedule import Share, order

# A template whose best variant takes e times this share longer than the incumbent has 1/e of a claim.
BEHIND = 0.1


@dataclass
class Told:
    """A verdict as searches hear of it."""

    template: str
    config: Config
    ratio: float | None
    failure: str


@dataclass
class Arm:
    """One template's space for a workload, and the search in it.

    `idle` are the parameters that have no effect on the workload; `best` is the least ratio so far, infinite
    where all have failed.
    """

    file: SpaceFile
    space: Space
    search: Search
    idle: frozenset[str]
    share: Share = field(default_factory=Share)
    best: float | None = None
    waiting: bool = False

    @property
    def template(self) -> str:
        return self.file.template

    @property
    def default(self) -> Variant:
        return make(self.template, self.space.default)

    def projected(self, config: Config) -> Config:
        """A configuration with what has no effect on this workload as the space has it."""
        kept = {n: self.space.default[n] if n in self.idle else v for n, v in config.items()}
        return self.space.canonical(kept)


class Arms:
    """All templates of a workload, the one with the default first."""

    def __init__(
        self, problem: Problem, target: Target, workload: Workload, plan: Plan, seed: int
    ) -> None:
        """Raises TemplateError where none serves, UsageError where the plan's template is none of those."""
        self._plan, self._seed = plan, seed
        self._arms: dict[str, Arm] = {}
        for file in _wanted(serving(problem, target), plan.template):
            space = self._space(file, problem, target, workload.tokens)
            if space is not None:
                idle = spaces.idle(file, space.facts)
                self._arms[file.template] = Arm(file, space, self._search(space), idle)

    def _space(
        self, file: SpaceFile, problem: Problem, target: Target, tokens: int
    ) -> Space | None:
        """The first template's has to be had; another that does not serve this workload is left out.

        Raises SpaceError where a default is not in its space: the file says where.
        """
        try:
            return spaces.resolve(file, problem, target, tokens)
        except TemplateError:
            if not self._arms:
                raise
            return None

    def _search(self, space: Space) -> Search:
        return Search(space, self._seed, self._plan.sampler, self._plan.trials)

    def get(self, template: str) -> Arm | None:
        """A template's arm, if it takes part."""
        return self._arms.get(template)

    def __iter__(self) -> Iterator[Arm]:
        return iter(self._arms.values())

    @property
    def default(self) -> Variant:
        """The default of the first template, with which everything is compared."""
        return next(iter(self)).default

    def pin(self, pack: str | None, told: Iterable[Told]) -> None:
        """Searches begin anew among the variants of one packed form, or of all where it is None, and know what
        was told."""
        if pack is not None:
            readers = pack_templates(pack)
            self._arms = {name: arm for name, arm in self._arms.items() if name in readers}
            for arm in self._arms.values():
                arm.space = arm.space.pin(pack_config(pack))
        for arm in self._arms.values():
            arm.search = self._search(arm.space)
        for verdict in told:
            if verdict.template in self._arms:
                self._remember(verdict)

    def _remember(self, verdict: Told) -> None:
        self._arms[verdict.template].search.remember(verdict.config, verdict.ratio, verdict.failure)

    def remember(self, verdict: Told) -> None:
        """A verdict that no search of these asked for."""
        if verdict.template in self._arms:
            self._remember(verdict)

    def note(self, template: str, ratio: float | None) -> None:
        """A verdict on a variant of a template: claims follow the best ratio of each."""
        arm = self._arms.get(template)
        if arm is None:
            return
        arm.best = min(arm.best or math.inf, ratio or math.inf)
        arm.waiting = False
        least = min(a.best or math.inf for a in self._arms.values())
        for other in self._arms.values():
            if other.best is not None and math.isfinite(other.best):
                other.share.weight = (least / other.best) ** (1 / BEHIND)

    def ask(self) -> tuple[Arm, Suggestion] | None:
        """The next configuration to try; None where all searches are at their end.

        A template of which nothing is known yet is asked for one and waits for its verdict, while another has
        any to try.
        """
        arms = list(self._arms.values())
        turns = [arms[index] for index in order([arm.share for arm in arms])]
        for arm in sorted(turns, key=lambda arm: arm.waiting):
            suggestion = arm.search.ask()
            if suggestion is not None:
                arm.share.take()
                arm.waiting = arm.best is None
                return arm, suggestion
        return None


def readable(pack: str | None, problem: Problem, target: Target, template: str) -> bool:
    """Whether a template of a session (the pinned one, or any that serves the layer) reads a packed form."""
    if pack is None:
        return False
    try:
        readers = pack_templates(pack)
    except SpaceError:  # of a template that is not installed
        return False
    files = _wanted(serving(problem, target), template)
    return any(file.template in readers for file in files)


def _wanted(files: Iterable[SpaceFile], template: str) -> list[SpaceFile]:
    found = [file for file in files if template in ("", file.template)]
    if not found:
        known = ", ".join(file.template for file in files)
        raise UsageError(f"--template {template}: does not serve this layer here; use {known}")
    return found
