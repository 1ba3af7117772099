"""The lower bounds of pyproject.toml as constraints for pip: `python -m tests.lowest > FILE`.

`make test-lowest` installs them all at once and runs the tests that need no compiler, so that a bound is what
was tried, together with the others: those of the package, and of the extra `test` with all that it takes in.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_LEAST = (">=", "==")


def constraints(project: dict[str, Any], extra: str = "test") -> dict[str, str]:
    """Package -> its lowest version, of what the project and one of its extras need.

    Raises:
        ValueError: a requirement without a lower bound, or two of one package that differ.
    """
    found: dict[str, str] = {}
    for wanted in _requirements(project, [*project["dependencies"], *_extra(project, extra)]):
        bounds = [part.version for part in wanted.specifier if part.operator in _LEAST]
        if len(bounds) != 1:
            raise ValueError(f"{wanted}: must have one lower bound, like {wanted.name}>=1.0")
        if found.setdefault(wanted.name, bounds[0]) != bounds[0]:
            raise ValueError(f"{wanted}: another place says {found[wanted.name]}; keep one bound")
    return found


def _requirements(project: dict[str, Any], texts: Iterable[str]) -> Iterator[Requirement]:
    """The requirements, and of those that name an extra of this project what it needs."""
    for wanted in map(Requirement, texts):
        if wanted.name != project["name"]:
            yield wanted
        for extra in wanted.extras if wanted.name == project["name"] else ():
            yield from _requirements(project, _extra(project, extra))


def _extra(project: dict[str, Any], name: str) -> Sequence[str]:
    found: Sequence[str] = project["optional-dependencies"][name]
    return found


def main() -> int:
    """Print a constraint a line, sorted."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    print("\n".join(f"{name}=={least}" for name, least in sorted(constraints(project).items())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
