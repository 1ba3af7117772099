"""The table of search strategies, by the name that `--sampler` takes.

Each file `*_strategy.py` of this room has some in its `STRATEGIES`: adding one is adding a file. A file must
not import an engine before one of its strategies is asked for: the command line lists them all.
"""

from __future__ import annotations

from tuner import discovery
from tuner.errors import UsageError
from tuner.search.proposer import Strategy


def found() -> dict[str, Strategy]:
    """The strategies of all files, in the order of the files' names."""
    tables = (module.STRATEGIES for module in discovery.modules("tuner.search", "_strategy"))
    return {name: strategy for table in tables for name, strategy in table.items()}


STRATEGIES = found()


def named(name: str) -> Strategy:
    """The strategy of a name. Raises UsageError where there is none."""
    if name not in STRATEGIES:
        raise UsageError(f"--sampler {name}: not known; use {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
