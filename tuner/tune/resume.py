"""Earlier: how the trials of a session that was stopped are gone through again.

What sessions that went to their end found is knowledge, told to the searches at once. The trials of one
that was stopped are answers: its searches ask again what they asked then, in the same order, and are
answered from the database, so that they go on in the very state in which they were. Where they ask
for something else (another plan, another winner nearby), what is left becomes knowledge.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from tuner.codegen import render
from tuner.errors import SpaceError, TemplateError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.space.variant import Variant, make
from tuner.store.records import Environment, SessionRow, TrialRow

# What a trial's environment says of a finalist of another cell: no search asked for it.
VISIT = Environment(stage="compare")
# In a session's data: the last trial that it knew of.
LAST_TRIAL = "last_trial"


class Stopped:
    """Trials of a session that was stopped, of all its cells, in the order of their verdicts."""

    def __init__(self) -> None:
        self._rows: deque[tuple[int, TrialRow]] = deque()

    def add(self, cell: int, rows: Iterable[TrialRow]) -> None:
        """The trials of one cell."""
        mixed = [*self._rows, *((cell, row) for row in rows)]
        self._rows = deque(sorted(mixed, key=lambda entry: entry[1].id or 0))

    def holds(self, cell: int, variant_id: str) -> bool:
        """Whether a variant has such a trial in a cell."""
        return any((number, row.variant_id) == (cell, variant_id) for number, row in self._rows)

    def is_next(self, cell: int, variant_id: str) -> bool:
        """Whether this is the next trial."""
        return bool(self._rows) and (self._rows[0][0], self._rows[0][1].variant_id) == (
            cell,
            variant_id,
        )

    def take(self, cell: int, variant_id: str) -> TrialRow | None:
        """The next trial if it is this one."""
        return self._rows.popleft()[1] if self.is_next(cell, variant_id) else None

    def rest(self) -> list[tuple[int, TrialRow]]:
        """All that is left, which is given up as answers."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    @property
    def searching(self) -> bool:
        """Whether a trial is left that a search asked for."""
        return bool(self._rows) and not is_visit(self._rows[0][1].environment)


def is_current(row: TrialRow, problem: Problem, toolchain: str, cold: bool) -> bool:
    """Whether a trial is of the same compiler, source and temperature of the weights, and a verdict on them."""
    if row.passing or row.environment.get("toolchain") != toolchain:
        return False
    if row.measurement and row.measurement.temperature != ("cold" if cold else "warm"):
        return False
    try:
        variant = make(row.template, row.config)
        made_by = row.environment.get("template", "")
        return render.is_current(problem, variant, row.source_digest, made_by)
    except (SpaceError, TemplateError):  # its parameters changed since, or it is not installed
        return False


def is_to(row: TrialRow, default: Variant) -> bool:
    """Whether a trial's ratio is to this default, and not to that of another template or of another time."""
    base = row.environment.get("base")
    return base == default.name if base else row.template == default.template


def is_visit(environment: Environment) -> bool:
    """Whether a trial is that of a finalist of another cell."""
    return environment.get("stage") == VISIT["stage"]


def finished(sessions: Sequence[SessionRow], workload: Workload) -> int:
    """The last trial of a workload that a session knew which went to its end; 0: there is none."""
    here = {"tokens": workload.tokens, "load": workload.load}
    ends = [
        int(session.data.get(LAST_TRIAL, 0))
        for session in sessions
        if any(cell["workload"] == here for cell in session.data["cells"])
    ]
    return max(ends, default=0)
