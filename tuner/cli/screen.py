"""What people see: tables on stdout and progress on stderr."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import click
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from tuner.host.terminal import printable
from tuner.report.words import clock, counted, inverse

if TYPE_CHECKING:
    from tuner.tune.plan import Progress as Report

# Where no terminal says how wide it is: what a log or a page holds.
_WIDE = 120
# In a log: a line where a stage begins, and so often meanwhile.
_LOG_S = 30.0
_INTERVAL = re.compile(r"(\[\S+,) (\S+\])")
# Of the bar of progress, in characters: 80 columns hold it beside the stage and the time.
_BAR = 16


class Screen(Console):
    """A console that spells what a terminal would obey: names and messages may come from outside."""

    def print(self, *objects: Any, **how: Any) -> None:
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **how)


def stdout() -> Screen:
    """Where results go."""
    width = None if sys.stdout.isatty() else _WIDE
    return Screen(width=width, highlight=False, markup=False, emoji=False)


def stderr() -> Screen:
    """Where progress goes."""
    return Screen(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints text as it is, but for what a terminal would obey; lines are not folded."""
    click.echo(printable(text), err=err, nl=nl)


def write(text: bytes) -> None:
    """Writes a whole text to stdout: for a program or a file byte by byte, for a terminal as `echo` does."""
    if sys.stdout.isatty():
        echo(text.decode(), nl=False)
    else:
        click.echo(text, nl=False)


def show(part: str | Table) -> None:
    """Prints a table, or a sentence, which a terminal gets folded between words; intervals stay whole."""
    console = stdout()
    if not isinstance(part, str):
        console.print(part)
        return
    whole = _INTERVAL.sub("\\1\u00a0\\2", printable(part))
    folded = textwrap.wrap(whole, console.width - 1, break_long_words=False, break_on_hyphens=False)
    lines = folded if sys.stdout.isatty() else [whole]
    echo("\n".join(lines).replace("\u00a0", " "))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], whole: Collection[str] = ()
) -> Table:
    """A table; a column whose name starts with ``>`` holds numbers. Where there is no room, a cell goes on in
    the next line, other columns before those that are named in ``whole``: nothing is cut."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        title = name.lstrip("> ")
        justify: Literal["left", "right"] = "right" if name[0] == ">" else "left"
        made.add_column(title, justify=justify, overflow="fold", no_wrap=title in whole)
    for row in rows:
        made.add_row(*map(printable, row))
    return made


class TuneProgress:
    """Shows a tuning session on stderr: one moving line, or in a log one line a stage.

    It draws when the tuner reports, not by a thread of its own, which would disturb the timings.
    """

    def __init__(self, left: Callable[[Report], float], quiet: bool = False) -> None:
        """``left`` tells from each report how many seconds the session needs; ``quiet``: nothing is shown."""
        self._left = left
        self._console = stderr()
        self._live = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._shown: set[tuple[int, str]] = set()
        self._logged_s = 0.0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=_BAR),
            TextColumn("{task.fields[state]}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("tuning", total=1.0, state="measuring this machine")

    def __enter__(self) -> TuneProgress:
        self._bar.start()
        self._bar.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:  # rich before 14.3 ends a bar that was never shown with an empty line
            self._bar.stop()

    def __call__(self, report: Report) -> None:
        """Show where the session stands."""
        load = "" if report.workload.load == "uniform" else f" {report.workload.load}"
        place = f"{counted(report.workload.tokens, 'token')}{load}"
        head = f"{report.cell + 1}/{report.cells} {place}: {report.stage}"
        left_s = self._left(report)
        # Two spaces between columns, and a cell that stays free for the cursor.
        room = self._console.width - len(head) - _BAR - 3
        changes: dict[str, Any] = {
            "description": printable(head),
            "state": state(report, left_s, room),
        }
        self._bar.update(self._task, completed=done(report, left_s), refresh=True, **changes)
        here = (report.cell, report.stage)
        late = report.elapsed_s >= self._logged_s + _LOG_S
        if not self._live and not self._quiet and (late or here not in self._shown):
            self._shown.add(here)
            self._logged_s = report.elapsed_s
            self._console.print(f"{head}, {state(report, left_s)}")


def state(report: Report, left_s: float, room: int | None = None) -> str:
    """Time so far, trials by status, the incumbent against the default, the time left, the pace: as much of it,
    in this order, as there is room for, in characters; all of it where None."""
    over = report.budget_s is None or report.elapsed_s > report.budget_s
    told = (
        clock(report.elapsed_s)
        if over
        else f"{clock(report.elapsed_s)} of {clock(report.budget_s or 0)}"
    )
    counts = ", ".join(
        f"{count} {name}" for name, count in sorted(report.statuses.items()) if count
    )
    planned = f" of {report.planned}" if report.planned else ""
    parts = [f"trials{planned}: {counts or 'none yet'}"]
    # What the finals may take back is no gain yet.
    if report.best_ratio and report.best_ratio < 1 and report.stage != "done":
        parts.append(f"{inverse(report.best_ratio):.2f}x unconfirmed")
    parts.append(f"{clock(left_s)} left")
    if report.per_minute:
        parts.append(f"{report.per_minute:.1f} variants a minute")
    for part in parts:
        if room is not None and len(told) + len(part) + 2 > room:
            break
        told += f", {part}"
    return told


def done(report: Report, left_s: float) -> float:
    """The share of the session's time that is over."""
    whole_s = report.elapsed_s + left_s
    return report.elapsed_s / whole_s if whole_s else 1.0
