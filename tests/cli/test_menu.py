"""The commands: in groups, found by a near name, and loaded only where they are called."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.shell_completion import BashComplete

from tests.commands import Run
from tuner.cli import _moetune, endings
from tuner.cli.menu import ENTRIES, SECTIONS, Entry

# What the commands need and their list does not: each takes a tenth of a second or more.
HEAVY = ("numpy", "torch", "optuna", "jinja2", "sqlite_utils", "matplotlib", "rich", "cryptography")


def imported(*argv: str) -> list[str]:
    """The modules that a fresh interpreter has after a command line."""
    program = (
        "import sys\nfrom tuner.cli import main\n"
        f"code = main({list(argv)!r})\nprint(*sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stderr.splitlines()[-1].split()


@pytest.mark.parametrize("argv", [("--help",), ("--version",), (), ("tnue",)], ids=str)
def test_the_list_of_commands_imports_none(argv: tuple[str, ...]) -> None:
    modules = imported(*argv)
    assert "tuner.cli.menu" in modules
    assert not {"tuner.problem", "tuner.cli.screen", *HEAVY} & set(modules)
    assert not [name for name in modules if name.startswith("tuner.cli.commands.")]


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=lambda entry: str(entry.name))
def test_an_entry_is_its_command(entry: Entry) -> None:
    command = entry.load()
    assert command.name == entry.name
    assert command.help is not None
    assert " ".join(command.help.split()).startswith(entry.help)


def test_help_lists_the_commands_by_what_people_do(moetune: Run) -> None:
    said = moetune("--help").out
    titles = [line[:-1] for line in said.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == ["Options", *SECTIONS]
    hidden = [entry.name for entry in ENTRIES.values() if entry.hidden]
    assert hidden == ["run-job", "validate"]
    assert not any(f"\n  {name} " in said for name in hidden)
    assert all(moetune(f"{name} --help").code == 0 for name in hidden)


@pytest.mark.parametrize("group", ["", "bundle", "token"])
def test_a_group_alone_prints_its_help(group: str, moetune: Run) -> None:
    """As it is: on many lines, and with the exit code of a wrong call."""
    said = moetune(group)
    assert (said.code, said.out) == (endings.CALLED_WRONGLY, "")
    assert said.err == moetune(f"{group} --help").out


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tnue", "No such command 'tnue'. Did you mean 'tune'?"),
        ("modles", "Did you mean 'models'?"),
        ("bundle biuld", "Did you mean 'build'?"),
        ("best --tokns 1", "Did you mean one of: '--tokens', "),
        ("best granite --tokens 1", "did you mean granite-3.0-1b-a400m?"),
        ("best mixtral-8x7b --tokens 1 --target nvidia-h10", "did you mean nvidia-h100"),
        ("best mixtral --tokens 1", "did you mean mixtral-8x7b?"),
    ],
)
def test_a_near_name_is_told(line: str, told: str, moetune: Run) -> None:
    said = moetune(line)
    assert (said.code, said.out) == (endings.CALLED_WRONGLY, "")
    assert told in said.err


def test_names_are_completed() -> None:
    def completed(words: list[str], start: str) -> list[str]:
        shell = BashComplete(_moetune, {}, "moetune", "_MOETUNE_COMPLETE")
        return [item.value for item in shell.get_completions(words, start)]

    assert completed([], "ex") == ["explain", "export"]
    assert completed(["best"], "gran") == ["granite-3.0-1b-a400m"]
    assert "--tokens" in completed(["best"], "--t")


def test_the_menu_gives_commands_of_click() -> None:
    context = click.Context(_moetune)
    assert _moetune.list_commands(context) == list(ENTRIES)
    assert _moetune.get_command(context, "none") is None
