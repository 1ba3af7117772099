"""What of this package travels in a job folder: the modules that the runner imports, and a run.py for them."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

from tuner.host.files import write_whole
from tuner.offline import bench

_PACKAGE = Path(__file__).resolve().parents[1]
_ENTRIES = ("tuner.offline.run", "tuner.offline.trial")
_RUN = '''"""Runs this job on the machine that has its target: python run.py [SECONDS]."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER / "code"))

from tuner.offline.run import main  # noqa: E402

sys.exit(main([str(FOLDER), *sys.argv[1:]]))
'''


def write(folder: Path, kind: str) -> None:
    """Writes run.py and code/tuner for a kind of target: the rooms around the modules that it needs, and
    nothing of the package's own ``__init__``."""
    write_whole(folder / "run.py", _RUN.encode())
    to = folder / "code" / "tuner"
    to.mkdir(parents=True, exist_ok=True)
    write_whole(to / "__init__.py", b"")
    for path in sorted(_needed({*_ENTRIES, bench.module_of(kind)})):
        copy = to / path.relative_to(_PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_whole(copy, path.read_bytes())


def _needed(entries: Collection[str]) -> set[Path]:
    """Files of this package that are loaded with the entries, directly or not."""
    found: set[Path] = set()
    left = {path for entry in entries for path in _files(entry)}
    while left:
        path = left.pop()
        found.add(path)
        left |= {file for name in _imports(path) for file in _files(name)} - found
    return found


def _files(name: str) -> set[Path]:
    """What is loaded for a dotted name: a module, or a name inside one, and the rooms around it."""
    found: set[Path] = set()
    place = _PACKAGE
    for part in name.split(".")[1:]:
        place = place / part
        if place.with_suffix(".py").is_file():
            return {*found, place.with_suffix(".py")}
        if not (place / "__init__.py").is_file():
            break
        found.add(place / "__init__.py")
    return found


def _imports(path: Path) -> set[str]:
    """What a module imports at its top. A job that needs what others import late names it among the entries."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tuner":
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names
