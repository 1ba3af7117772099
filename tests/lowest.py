"""Runs the tests that need no compiler with every lower bound of pyproject.toml at once: `make test-lowest`.

So a bound is what was tried, together with the others: those of the package, and of the extra `test` with all
that it takes in. They are installed into an environment of their own, .venv-lowest, again when they change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".venv-lowest"
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


def install(wanted: str, place: Path) -> Path:
    """The Python of an environment with these constraints, a line each, and those of tests/constraints.txt."""
    python, listed = place / "bin" / "python", place / "constraints.txt"
    if listed.is_file() and listed.read_text() == wanted:
        return python
    venv.create(place, with_pip=True, clear=True)
    draft = place / "wanted.txt"
    draft.write_text(wanted)
    pip: list[str | Path] = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    if uv := shutil.which("uv"):
        pip = [uv, "pip", "install", "--python", python]
    held = ["--constraint", draft, "--constraint", ROOT / "tests" / "constraints.txt"]
    command = [*pip, "--quiet", *held, "--editable", f"{ROOT}[test]"]
    subprocess.run(command, check=True, env={**os.environ, "UV_TORCH_BACKEND": "cpu"})
    draft.rename(listed)
    return python


def main() -> int:
    """Install what is lowest, and run the tests with it; returns what pytest ends with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (f"{name}=={least}\n" for name, least in sorted(constraints(project).items()))
    python = install("".join(lines), PLACE)
    marks = "not slow and not timed and not compiler"
    command = [python, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "-m", marks]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
