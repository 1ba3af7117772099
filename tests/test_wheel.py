"""The wheel works away from the repository: its data travel in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROGRAM = """\
import json, importlib.metadata, importlib.resources, tuner

def files(folder):
    for entry in folder.iterdir():
        yield from files(entry) if entry.is_dir() else [entry]

package = importlib.resources.files("tuner")
print(json.dumps({
    "place": tuner.__file__,
    "version": importlib.metadata.version("moetune"),
    "templates": {str(f): f.read_text() for f in files(package / "templates")},
    "pages": {f.name: f.read_text() for f in files(package / "serve" / "pages")},
    "best": (package / "db" / "best.jsonl").read_text(),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command that finds nothing but what is installed."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, ROOT, cwd=folder)
    (built,) = folder.glob("moetune-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; the dependencies come from the one that runs the tests."""
    home = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", "--without-pip", home / "venv", cwd=home)
    python = home / "venv" / "bin" / "python"
    options = ("--no-deps", "--no-index", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=home)
    print_place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(run(python, "-c", print_place, cwd=home).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_data_travel_in_the_wheel(python: Path) -> None:
    home = python.parents[2]
    installed = json.loads(run(python, "-c", PROGRAM, cwd=home))
    assert installed["place"].startswith(str(home))
    here = {path for path in (ROOT / "templates").rglob("*") if path.is_file()}
    base = Path(installed["place"]).with_name("templates")
    travelled = {
        str(Path(name).relative_to(base)): text for name, text in installed["templates"].items()
    }
    assert travelled == {
        str(path.relative_to(ROOT / "templates")): path.read_text() for path in here
    }
    assert "moe_cpu.mojo.j2" in travelled
    pages = ROOT / "tuner" / "serve" / "pages"
    assert installed["pages"] == {path.name: path.read_text() for path in pages.iterdir()}
    assert installed["best"] == (ROOT / "db" / "best.jsonl").read_text()
    assert installed["version"] == "0.1.0"


def test_the_command_line_starts(python: Path) -> None:
    said = run(python.with_name("moetune"), "--help", cwd=python.parents[2])
    assert all(command in said for command in ("doctor", "tune", "best", "generate"))
