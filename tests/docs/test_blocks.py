"""The code of the pages: Python runs, command lines are parsed by the command line itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest

import tuner
from tests.commands import Run
from tests.docs.pages import ROOT, Block, blocks, commands, name, pages
from tests.kernels import TINY
from tuner.cli import _moetune
from tuner.cli.menu import ENTRIES

PYTHON = {name(page): blocks(page, "python") for page in pages() if blocks(page, "python")}
RUN = {page: [b for b in found if not b.not_run] for page, found in PYTHON.items()}
COMMANDS = [given for page in pages() for given in commands(page)]
# What the pages write for something of the reader's.
PLACEHOLDERS = {"MODEL": "granite-3.0-1b-a400m", "FILE...": "FILE"}
# Files that commands of the pages want to be there.
FILES = ("FILE", "KEY", "release-key.pub", "granite.moe", "qwen3.moe", "best.jsonl", "job/x")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, where every preset is a layer that compiles in seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tuner.Problem, "preset", classmethod(lambda cls, name: TINY))
    return tmp_path


def run(page: str, names: dict[str, Any]) -> None:
    """Runs the blocks of a page one after the other, in one namespace; errors name the page's line."""
    for block in RUN[page]:
        text = "\n" * block.line + block.text
        exec(compile(text, ROOT / page, "exec"), names)


@pytest.mark.compiler
@pytest.mark.parametrize("page", ["README.md", "docs/run.md"])
def test_python_of_a_page_runs(page: str, small: Path) -> None:
    names: dict[str, Any] = {}
    run(page, names)
    assert names["y"].shape == (128, TINY.hidden)


@pytest.mark.compiler
def test_python_of_bundles_runs(small: Path, tiny_bundle: bytes, moetune: Run) -> None:
    Path("granite.moe").write_bytes(tiny_bundle)
    for line in (
        "keygen release-key",
        "trust release-key.pub",
        "sign granite.moe --key release-key",
    ):
        assert moetune(f"bundle {line}").code == 0
    names: dict[str, Any] = {"tuner": tuner, "weights": tuner.Weights.random(TINY, seed=0)}
    run("docs/ship.md", names)
    assert names["layer"].selection(128).match != "default"


def test_no_page_with_python_is_forgotten() -> None:
    tested = {"README.md", "docs/run.md", "docs/ship.md"}
    assert {page for page, found in RUN.items() if found} == tested


@pytest.mark.parametrize("block", [b for found in PYTHON.values() for b in found], ids=str)
def test_python_is_python(block: Block) -> None:
    compile(block.text, block.page, "exec")
    assert not block.not_run or len(block.not_run.split()) > 3  # a reason, in words


def parse(words: list[str]) -> None:
    """Parses as `moetune` does; runs nothing."""
    command: click.Command = _moetune
    context = command.make_context("moetune", words)
    while isinstance(command, click.Group):
        given = [*context._protected_args, *context.args]
        called, found, rest = command.resolve_command(context, given)
        assert found is not None
        command, context = found, found.make_context(called, rest, parent=context)


@pytest.mark.parametrize(
    ("place", "words"), [c for c in COMMANDS if c[1][0] == "moetune"], ids=lambda v: str(v)[:70]
)
def test_commands_are_parsed(place: str, words: list[str], small: Path) -> None:
    for file in map(Path, FILES):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    parse([PLACEHOLDERS.get(word, word) for word in words[1:]])


def test_the_page_of_commands_has_all_of_them() -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    columns = "".join(
        "".join(line.split("|")[1:3]) for line in page.splitlines() if line[:1] == "|"
    )
    assert set(ENTRIES) <= set(re.findall(r"`([\w-]+)`", columns))


def test_other_commands_exist() -> None:
    """Scripts are there and know their options; targets of make are in the Makefile."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for place, (program, *words) in COMMANDS:
        if program == "make":
            assert words[0] in targets, place
        if program == "python" and words[0].startswith(("benchmarks/", "examples/")):
            script = (ROOT / words[0]).read_text()
            options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
            assert [o for o in options if f'"{o}"' not in script] == [], place


def test_commands_are_found() -> None:
    programs = {words[0] for _, words in COMMANDS}
    assert {"moetune", "python", "make", "pip", "curl"} <= programs
    assert len([words for _, words in COMMANDS if words[0] == "moetune"]) > 40
