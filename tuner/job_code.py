"""What of this package travels in a job folder: the modules that the runner imports, and a run.py for them."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

from tuner import job_bench

_ENTRIES = ("tuner.job_run", "tuner.job_trial")
_RUN = '''"""Runs this job on the machine that has its target: python run.py [SECONDS]."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "code"))

from tuner.job_run import main  # noqa: E402

sys.exit(main([str(FOLDER), *sys.argv[1:]]))
'''


def write(folder: Path, kind: str) -> None:
    """Writes run.py and code/tuner for a kind of target: an empty package around the modules it needs."""
    (folder / "run.py").write_text(_RUN)
    package, to = Path(__file__).resolve().parent, folder / "code" / "tuner"
    to.mkdir(parents=True, exist_ok=True)
    (to / "__init__.py").write_text("")
    for name in sorted(_needed(package, {*_ENTRIES, job_bench.module_of(kind)})):
        shutil.copyfile(package / f"{name}.py", to / f"{name}.py")


def _needed(package: Path, entries: set[str]) -> set[str]:
    """Names of this package's modules that the entries import as they are loaded, directly or not."""
    found: set[str] = set()
    left = {entry.removeprefix("tuner.") for entry in entries}
    while left:
        name = left.pop()
        found.add(name)
        left |= _imports(package / f"{name}.py") - found
    return found


def _imports(path: Path) -> set[str]:
    """What a module imports at its top. A job that needs what others import late names it among the entries."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "tuner":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tuner."):
            names.add(str(node.module).removeprefix("tuner."))
    return names
