"""The short page of a side by side, for docs/: of each workload the best peer alone."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer_page import best, by_dtype, cells, facts, markdown, ms, ratio, slower
from peer_rows import About, Row

from tuner.host.interference import FOREIGN_LIMIT

SCRIPT = "python benchmarks/cpu_peers.py"
# The page's folder: its links start there.
FOLDER = Path("docs", "results")
SUMMARY = "Best peer's time over ours: median over models and loads (least to greatest), and of how many cells."
FEWER_EXPERTS = (
    " Experts are left out where the copies that all contestants hold do not fit into memory."
)
# A cell of a table: model, tokens, load.
Place = tuple[str, int, str]


@dataclass(frozen=True)
class Grid:
    """The cells that were wanted: every model at every number of tokens and load, in every type."""

    models: tuple[str, ...]
    tokens: tuple[int, ...]
    loads: tuple[str, ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Grid:
        """What the rows name, in the order in which it came; tokens by number."""
        return cls(
            models=_distinct(row.model for row in rows),
            tokens=tuple(sorted({row.peer.tokens for row in rows})),
            loads=_distinct(row.peer.load for row in rows),
            dtypes=_distinct(row.dtype for row in rows),
        )

    @property
    def a_column(self) -> int:
        """The cells of one number of tokens in one type."""
        return len(self.models) * len(self.loads)

    @property
    def size(self) -> int:
        return self.a_column * len(self.tokens) * len(self.dtypes)

    def __str__(self) -> str:
        named = {
            "models": self.models, "token counts": self.tokens, "loads": self.loads,
            "types": self.dtypes,
        }  # fmt: skip
        return " x ".join(f"{len(values)} {name}" for name, values in named.items())


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def brief(
    runs: Sequence[About], rows: Sequence[Row], data: Path, picture: Path | None = None
) -> str:
    """The whole page as Markdown. `data` is the file of the rows and `picture` their plot, both as
    seen from the root of the project."""
    grid = Grid.of(rows)
    parts = [
        ["# Models beside other libraries"],
        [_made_by(data, picture)],
        facts([_without_commands(about) for about in runs], rows),
        [_measured(grid, rows, data)],
        [_legend(rows)],
        [SUMMARY],
        summary(grid, rows),
        [f"![time of the best peer over ours]({os.path.relpath(picture, FOLDER)})"]
        if picture
        else [],
        slower(rows) or ["In no measured cell is the best peer proven to be faster."],
    ]
    for dtype, own in by_dtype(rows).items():
        parts += [[f"## {dtype}"], table(grid, own)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _made_by(data: Path, picture: Path | None) -> str:
    plot = f" --plot {shlex.quote(str(picture))}" if picture else ""
    rows = shlex.quote(str(data))
    return (
        f"Made by `{SCRIPT} --render {rows} --brief{plot}`; without `--brief` it shows every peer,\n"
        "`--forms` every form of them, and the commands that measured."
    )


def _without_commands(about: About) -> About:
    """There may be one for each model: the long page has them."""
    return {name: fact for name, fact in about.items() if name != "command"}


def _measured(grid: Grid, rows: Sequence[Row], data: Path) -> str:
    count = sum(len(cells(own)) for own in by_dtype(rows).values())
    if count == grid.size:
        return f"**All {count} cells are measured**: {grid}."
    return (
        f"**{count} of {grid.size} cells are measured** ({grid}): a dash is one that is not yet.\n"
        f"`{SCRIPT} --models MODEL --out {shlex.quote(str(data))}` measures what a model lacks."
    )


def _legend(rows: Sequence[Row]) -> str:
    ran = {
        dtype: _distinct(row.peer.peer for row in own if not row.peer.refused)
        for dtype, own in by_dtype(rows).items()
    }
    peers = "; ".join(f"{dtype}: {', '.join(names) or 'none'}" for dtype, names in ran.items())
    chosen = _distinct(row.peer.match for row in rows)
    kernels = ", ".join(chosen) if chosen != ("default",) else "the template's defaults, none tuned"
    fewer = any(row.experts != row.of_experts for row in rows)
    return f"""\
A cell says our median time, its share of the ceiling that binds (`read`: bandwidth probed beside the samples,
of cold weights; `fma`, `dot`: the peak), and the best peer's time over ours, the median of paired rounds with
its 95 % interval: above 1 ours is faster. Peers that ran, each in its fastest form:
{peers}.
Our kernels: {kernels}.{FEWER_EXPERTS if fewer else ""}
A star: other processes took more than {100 * FOREIGN_LIMIT:g} % of the machine meanwhile."""


def summary(grid: Grid, rows: Sequence[Row]) -> list[str]:
    """A line for each type, a column for each number of tokens."""
    lines = []
    for dtype, own in by_dtype(rows).items():
        by_tokens: dict[int, list[float]] = {tokens: [] for tokens in grid.tokens}
        for cell in cells(own):
            peer = best(cell)
            if peer:
                by_tokens[peer.tokens].append(peer.ratio)
        lines.append([dtype, *(_spread(ratios, grid.a_column) for ratios in by_tokens.values())])
    return markdown(["tokens", *map(str, grid.tokens)], 1, lines)


def _spread(ratios: Sequence[float], wanted: int) -> str:
    if not ratios:
        return "-"
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    return f"{middle:.2f} ({least:.2f} to {most:.2f}), {len(ratios)} of {wanted}"


def table(grid: Grid, rows: Sequence[Row]) -> list[str]:
    """The cells of one type: a line for each model and number of tokens, a column for each load."""
    labels = {row.model: row.label for row in rows}
    found = {_place(cell): _told(cell) for cell in cells(rows)}
    lines = [
        [
            labels.get(model, model),
            str(tokens),
            *(found.get((model, tokens, load), "-") for load in grid.loads),
        ]
        for model in grid.models
        for tokens in grid.tokens
    ]
    titles = ["model", "tokens", *grid.loads]
    return markdown(titles, len(titles), lines)


def _place(cell: Mapping[str, Row]) -> Place:
    row = next(iter(cell.values()))
    return row.model, row.peer.tokens, row.peer.load


def _told(cell: Mapping[str, Row]) -> str:
    fastest = best(cell)
    ours = fastest or next(iter(cell.values())).peer
    against = f"{ratio(fastest)} {fastest.peer}" if fastest else "no peer can run"
    star = " *" if any(row.disturbed for row in cell.values()) else ""
    share = f"{ours.ceiling_fraction:.2f} of {ours.ceiling}"
    return f"{ms(ours.ours_median_ns)} ms, {share}; {against}{star}"
