"""Menu: the commands, grouped by what people do. A command's module is imported when the command is called.

So `moetune --help` and the completion of a command's name take no longer than Python takes to start.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

_COMMANDS = "tuner.cli.commands"


@dataclass(frozen=True)
class Entry:
    """A command that is not loaded yet.

    Attributes:
        place: its module among the commands, and its name there where that is another one.
        help: the first sentence of its help.
        hidden: it works, and is listed nowhere but in docs/commands.md.
    """

    name: str
    place: str
    help: str
    hidden: bool = False

    def load(self) -> click.Command:
        module, _, name = self.place.partition(":")
        loaded = getattr(importlib.import_module(f"{_COMMANDS}.{module}"), name or module)
        assert isinstance(loaded, click.Command)
        return loaded


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Tune": (
        Entry("tune", "tune", "Search the fastest kernels and record them."),
        Entry("tell", "job:tell", "Read a job folder's results into the database, as far as it got."),
        Entry("run-job", "job:run_job",
              "Verify and measure a job folder's variants on this machine's GPU or CPU.", hidden=True),
    ),
    "Inspect": (
        Entry("models", "listing:models", "List the models that are known by name, and what is tuned of each."),
        Entry("list", "listing:list_", "List what the database holds: a row for each model, machine and load."),
        Entry("best", "best", "Say which kernel to run, and why."),
        Entry("explain", "explain", "Say how the best kernel was found, and what it beat."),
        Entry("trials", "trials:trials", "List the trials of a model, the oldest first."),
        Entry("history", "trials:history", "Show how fast a model's winner was at each date."),
        Entry("compare", "compare",
              "Compare two databases, machines, dates or versions, side by side."),
        Entry("bench", "bench", "Time the layer against its peers."),
        Entry("report", "report", "Write what is known of a model on every machine."),
    ),
    "Ship": (
        Entry("bundle", "bundle",
              "One file of tuned kernels that verifies itself and runs without a compiler."),
        Entry("export", "files:export", "Write the winners as JSON lines, or recorded trials as T4 results."),
        Entry("import", "files:import_", "Read winners from JSON lines."),
        Entry("merge", "files:merge_", "Merge results of other machines; keep the better-measured ones."),
    ),
    "Serve": (
        Entry("serve", "serve", "Answer for the database over HTTP: an API under /v1, a page at /."),
        Entry("token", "token", "Make, list and revoke the tokens that let others write to `moetune serve`."),
    ),
    "Maintain": (
        Entry("doctor", "doctor", "Say what works here, and what mends the rest."),
        Entry("audit", "audit", "Measure the stored winners of this machine again, cheapest first."),
        Entry("generate", "files:generate", "Write the winners' Mojo sources."),
        Entry("validate", "validate",
              "Measure what was once claimed from a simulation, in about five minutes.", hidden=True),
    ),
}  # fmt: skip
ENTRIES = {entry.name: entry for entries in SECTIONS.values() for entry in entries}


class Menu(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all, hidden ones too, in the order of the sections."""
        return list(ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, loaded; None where there is none."""
        entry = ENTRIES.get(cmd_name)
        return entry.load() if entry else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As every group does, but with the names of commands that are not loaded to guess from."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            names = [entry.name for entry in _shown()]
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=names, ctx=ctx
            ) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each thing that people do."""
        width = max(len(entry.name) for entry in _shown())
        for title, entries in SECTIONS.items():
            rows = [(e.name.ljust(width), e.help.rstrip(".")) for e in entries if not e.hidden]
            with formatter.section(title):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """The commands whose names begin so, then the options."""
        from click.shell_completion import CompletionItem

        names = [e for e in _shown() if e.name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(e.name, help=e.help) for e in names), *options]


def _shown() -> Iterator[Entry]:
    return (entry for entry in ENTRIES.values() if not entry.hidden)
