"""Selection: the answer to "which variant", from a tuning database or from a bundle."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from tuner.host import notebook
from tuner.target import Target

# A winner for 8 times the tokens or an eighth is the furthest that says anything: beyond that
# another form of the kernel (matrix-vector, small or large blocks) wins.
MAX_TOKEN_DISTANCE = 3.0
OTHER_LOAD = 1.0  # in octaves of token count, as all distances are


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The answer to "which variant".

    Attributes:
        template, variant, config: what to render; ``variant`` is the name.
        pack: name of the packed form of the weights that it reads.
        match: exact, tokens, load (another load, and perhaps other tokens), arch (same
            architecture, another machine), older (architecture) or default.
        reason: one sentence: where the winner comes from and what differs from the request.
        distance: 0 for the same workload, machine and compiler; see the constants of ``tuner.select.select``;
            infinite for the default.
        evidence: of the winner: times (ns), rates, ratio to the default, workload, target,
            environment; empty for the default.
        tokens, load: as asked.
        target: what to compile for; runs on the target that was asked for.
        source: where it comes from: database (the user's own winners), shipped (the winners that moetune
            brings), default (nothing that was tuned fits), bundle; empty where a service did not say it.
    """

    template: str
    variant: str
    config: dict[str, int]
    pack: str
    match: str
    reason: str
    distance: float
    evidence: dict[str, Any]
    tokens: int
    load: str
    target: Target
    source: str = ""

    def __repr__(self) -> str:
        asked = f"{self.tokens} tokens, load {self.load}, {self.target.label}"
        return f"<Selection {self.variant} for {asked}\n match {self.match}: {self.reason}>"

    def _repr_html_(self) -> str:
        names = ("template", "variant", "tokens", "load", "source", "match", "reason")
        rows = [(name, getattr(self, name)) for name in names]
        return notebook.table("Selection", [*rows, ("target", self.target.describe())])

    @property
    def arch(self) -> str:
        """Name of the architecture to compile for."""
        return self.target.arch

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them: ``target`` as its key, no distance as null."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        distance = self.distance if math.isfinite(self.distance) else None
        return values | {"arch": self.arch, "target": self.target.key, "distance": distance}


def other_tokens(tuned: int, asked: int) -> str:
    """The words for a winner of another number of tokens."""
    return f"tuned for {tuned} token{'' if tuned == 1 else 's'}, asked for {asked}"


def octaves(a: float, b: float) -> float:
    """How many doublings two counts are apart, the unit of all distances; 0 counts as 1."""
    return abs(math.log2((a or 1) / (b or 1)))
