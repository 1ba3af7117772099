"""The tuned layer side by side with NumPy and PyTorch, interleaved in one run.

    python benchmarks/cpu_layer.py --models granite-3.0-1b-a400m --tokens 1,16,128,1024

It measures what is in the database (MOETUNE_DB, --db) and doesn't tune: the column `match` tells
how each variant was chosen. Needs nothing else running on the machine.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tuner.compile import toolchain_version
from tuner.database import Database, default_path
from tuner.errors import MoetuneError
from tuner.foreign import FOREIGN_LIMIT
from tuner.peers import PeerRow, installed, side_by_side
from tuner.problem import DTYPE_BYTES, Problem
from tuner.target import Target, detect

Results = Mapping[str, Sequence[PeerRow]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.against is None:  # NumPy has no fast products in 16 bits
        peers = [name for name in installed() if options.dtype == "float32" or name != "numpy"]
        options.against = peers
    try:
        run(options)
    except MoetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="the tuned layer against other libraries")
    result.add_argument("--models", type=words, default=["granite-3.0-1b-a400m", "classic-moe"])
    result.add_argument("--tokens", type=numbers, default=[1, 16, 128, 1024])
    result.add_argument("--dtype", choices=list(DTYPE_BYTES), default="float32")
    result.add_argument("--against", type=words)
    result.add_argument("--load", default="uniform")
    result.add_argument("--db", type=Path, default=default_path())
    result.add_argument("--out", type=Path, help="write the rows as JSON, too")
    return result


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


def run(options: argparse.Namespace) -> None:
    target = detect()
    about = surroundings(target, options)
    results = {}
    with Database(options.db) as database:
        for model in options.models:
            results[model] = side_by_side(
                problem_of(model).replace(dtype=options.dtype),
                target,
                database,
                options.tokens,
                options.against,
                options.load,
                lambda note: print(note, file=sys.stderr),
            )
    print(page(about, results))
    if options.out:
        rows = {model: [asdict(row) for row in rows] for model, rows in results.items()}
        options.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


def problem_of(model: str) -> Problem:
    """A preset, or the layer of a Hugging Face config.json."""
    path = Path(model)
    return Problem.from_hf_config(path) if path.exists() else Problem.preset(model)


def surroundings(target: Target, options: argparse.Namespace) -> dict[str, str]:
    """What a reader has to know to judge the numbers, and the command that repeats them."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = {
        "Python": platform.python_version(),
        "NumPy": f"{np.__version__} ({blas['name']} {blas['version']})",
    }
    if "torch" in options.against and "torch" in installed():
        versions["PyTorch"] = str(importlib.import_module("torch").__version__)
    command = ["python", "benchmarks/cpu_layer.py", "--models", ",".join(options.models)]
    command += ["--tokens", ",".join(map(str, options.tokens))]
    command += ["--dtype", options.dtype]
    command += ["--against", ",".join(options.against), "--load", options.load]
    return {
        "machine": f"{target.describe()}, Linux {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": ", ".join(
            [toolchain_version(), *(f"{name} {text}" for name, text in versions.items())]
        ),
        "data type": options.dtype,
        "load": options.load,
        "command": shlex.join(command),
    }


def page(about: Mapping[str, str], results: Results) -> str:
    """Everything as Markdown."""
    facts = [f"- {name}: {text}" for name, text in about.items() if name != "command"]
    repeat = f"- repeat: `{about['command']}`"
    notes = [
        "",
        "Ratio = the peer's time / ours, median of the paired rounds with its 95 % interval:",
        "above 1 ours is faster. GFLOP/s, GB/s and the share of the ceiling that binds are ours.",
        "",
    ]
    return "\n".join([*facts, repeat, *notes, *table(results), *disturbed(results)])


def disturbed(results: Results) -> list[str]:
    """The cells whose numbers mean little, as other processes ran meanwhile."""
    shares = {
        f"{model} T={row.tokens} ({row.foreign:.0%})": None
        for model, rows in results.items()
        for row in rows
        if row.foreign > FOREIGN_LIMIT
    }
    if not shares:
        return []
    return ["", f"Disturbed by other processes, measure again: {', '.join(shares)}."]


def table(results: Results) -> list[str]:
    """One line for each model and number of tokens; two columns for each peer."""
    peers = list(dict.fromkeys(row.peer for rows in results.values() for row in rows))
    titles = ["model", "tokens", "match", "ours, ms", "rate", "of ceiling"]
    for peer in peers:
        titles += [f"{peer}, ms", f"ratio to {peer}"]
    lines = [titles, ["---"] * 3 + ["---:"] * (len(titles) - 3)]
    for model, rows in results.items():
        for _, cell in groupby(rows, key=lambda row: (row.tokens, row.load)):
            lines.append(cells(model, {row.peer: row for row in cell}, peers))
    return ["| " + " | ".join(line) + " |" for line in lines]


def cells(model: str, rows: Mapping[str, PeerRow], peers: Sequence[str]) -> list[str]:
    row = next(iter(rows.values()))
    rate = f"{row.gb_s:.0f} GB/s" if row.ceiling == "read" else f"{row.gflop_s:.0f} GFLOP/s"
    first = [model, f"{row.tokens} ({row.temperature})", row.match, ms(row.ours_median_ns), rate]
    return [*first, f"{row.ceiling_fraction:.2f}", *(c for p in peers for c in peer_cells(rows, p))]


def peer_cells(rows: Mapping[str, PeerRow], peer: str) -> list[str]:
    if peer not in rows:
        return ["-", "-"]
    row = rows[peer]
    interval = f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"
    return [f"{ms(row.peer_median_ns)} ({row.form})", f"{row.ratio:.2f} ({interval})"]


def ms(nanoseconds: float) -> str:
    """Three digits that mean something."""
    value: Any = nanoseconds / 1e6
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


if __name__ == "__main__":
    sys.exit(main())
