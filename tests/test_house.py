"""pyproject.toml, pixi.toml and the Makefile say the same, each thing once."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT.parent / "shared" / "pixi.schema.json"
MADE = {"build", "dist", "__pycache__", "node_modules"}


def toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text())


def makefile_commands() -> dict[str, str]:
    """Target -> its recipe, for the targets that need the environment."""
    text = (ROOT / "Makefile").read_text()
    return dict(re.findall(r"^([\w-]+): \$\((?:DOCS_)?STAMP\)\n\t(.+)$", text, re.MULTILINE))


def texts() -> Iterator[tuple[str, str]]:
    """Every text file of the project, by its path in it."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in MADE and (f == ".ci" or f[0] != ".")]
        folders[:] = [f for f in folders if not f.endswith(".egg-info")]
        for path in (Path(folder, name) for name in files if name != ".git"):  # of a worktree
            data = path.read_bytes()
            if b"\0" not in data[:1024]:
                yield str(path.relative_to(ROOT)), data.decode()


def test_the_commands_are_the_same() -> None:
    assert makefile_commands() == toml("pixi.toml")["tasks"]


def test_the_issue_of_commands() -> None:
    assert {"tune", "test", "lint", "bench", "doctor", "generate-check"} <= set(makefile_commands())


def test_continuous_integration_calls_the_same_targets() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = re.findall(r"^make ([\w-]+)", script.read_text(), re.MULTILINE)
    assert called == ["docs", "test", "test-lowest", "lint", "generate-check"]
    assert set(called) <= set(makefile_commands())


def test_pixi_adds_no_python_package() -> None:
    """One list of Python dependencies: pixi and make both install the project itself."""
    pixi = toml("pixi.toml")
    assert set(pixi["dependencies"]) == {"python", "make", "c-compiler"}
    (name, source), *others = pixi["pypi-dependencies"].items()
    assert not others
    assert name == toml("pyproject.toml")["project"]["name"]
    extras = re.findall(r"\$\(call install,([\w,]+)\)", (ROOT / "Makefile").read_text())
    assert extras == source["extras"]
    assert (source["path"], source["editable"]) == (".", True)
    assert set(source["extras"]) <= set(toml("pyproject.toml")["project"]["optional-dependencies"])


def test_every_installer_is_held_to_the_constraints() -> None:
    """An open range takes the newest torch, a CUDA build of several GB."""
    lines = (ROOT / "tests" / "constraints.txt").read_text().splitlines()
    (pin,) = (line for line in lines if not line.startswith("#"))
    name, version = pin.split("==")
    assert toml("pixi.toml")["pypi-options"]["dependency-overrides"] == {name: f"=={version}"}
    assert (
        f"{name}>={version}" in toml("pyproject.toml")["project"]["optional-dependencies"]["test"]
    )
    recipe = (ROOT / "Makefile").read_text()
    assert recipe.count("--constraint tests/constraints.txt") == recipe.count("--editable") == 2
    assert recipe.count("STAMP): pyproject.toml tests/constraints.txt |") == 2


def test_the_python_range_is_the_same() -> None:
    project = toml("pyproject.toml")["project"]
    assert toml("pixi.toml")["dependencies"]["python"] == project["requires-python"]
    low, high = re.findall(r"\((\d+), (\d+)\)", (ROOT / "Makefile").read_text())
    assert project["requires-python"] == f">={'.'.join(low)},<{'.'.join(high)}"
    listed = [c.rpartition(" ")[2] for c in project["classifiers"] if " :: Python :: 3." in c]
    assert listed == [f"3.{minor}" for minor in range(int(low[1]), int(high[1]))]


@pytest.mark.skipif(not SCHEMA.exists(), reason="the schema does not travel with the project")
def test_pixi_fits_its_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(toml("pixi.toml"), json.loads(SCHEMA.read_text()))


def test_the_compiler_is_pinned_in_one_file() -> None:
    pin = re.compile(r"\b(?:max|mojo)\s*={2}\s*\d")
    assert [name for name, text in texts() if pin.search(text)] == ["pyproject.toml"]


def test_no_file_names_a_folder_of_one_machine() -> None:
    place = re.compile(r"(?<![\w.$}/-])/(?:root|tmp|work|home/\w+|Users/\w+)(?=[/\s\"'`)]|$)", re.M)
    found = {name: place.findall(text) for name, text in texts() if place.search(text)}
    assert found == {}


ROOMS = sorted(path.parent for path in (ROOT / "tuner").glob("*/__init__.py"))


def test_every_room_has_its_tests() -> None:
    """And says in one line what it is for."""
    assert len(ROOMS) > 15
    for room in ROOMS:
        assert list((ROOT / "tests" / room.name).glob("test_*.py")), room.name
        assert (room / "__init__.py").read_text().startswith('"""'), room.name


def test_no_room_is_full() -> None:
    for room in (ROOT / "tuner").rglob("__init__.py"):
        assert len(list(room.parent.glob("*.py"))) <= 20, room.parent.name


def test_rooms_lean_on_few_others() -> None:
    """Pairs of rooms of which one imports the other: more of them, and nothing can be moved by itself."""
    graph = grimp.build_graph("tuner")
    edges = {
        (importer.split(".")[1], imported.split(".")[1])
        for importer in graph.modules - {"tuner"}
        for imported in graph.find_modules_directly_imported_by(importer) - {"tuner"}
    }
    assert 100 < sum(a != b for a, b in edges) <= 210


def test_the_rooms_are_those_of_the_contract() -> None:
    text = (ROOT / ".importlinter").read_text()
    layers = text.split("layers =")[1].split("ignore_imports")[0]
    named = {word for line in layers.splitlines() for word in line.replace("|", " ").split()}
    assert {room.name for room in ROOMS} <= named
    picture = (ROOT / "docs" / "pictures" / "packages.svg").read_text()
    assert named - {"|"} == set(re.findall(r">([a-z]+)</text>", picture)) - {"imports"}


def test_licence_and_changelog() -> None:
    assert (
        "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    )
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
