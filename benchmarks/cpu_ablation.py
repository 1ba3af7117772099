"""What each idea in the CPU kernel is worth: one thing switched off at a time, raced against the full kernel.

    python benchmarks/cpu_ablation.py --out ablation.json
    python benchmarks/cpu_ablation.py --render ablation.json

The full kernel is the winner that is stored for the cell (MOETUNE_DB, --db), else the template's default.
docs/results/ablation.md tells what each row switches off. Needs nothing else running on the machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablation.measure import COPIES, Asked, measure
from ablation.page import page
from cpu_peers import RESERVE_BYTES, fitted, numbers, problem_of, words

from tuner.codegen.compile import toolchain_version
from tuner.errors import MoetuneError, UsageError
from tuner.problem import Problem, footprint
from tuner.problem.dtypes import DTYPES
from tuner.target import Target, detect


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        print(page(stored(options.render) if options.render else run(options)))
    except MoetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="what each idea in the CPU kernel is worth")
    result.add_argument(
        "--model",
        type=words,
        default=["granite-3.0-1b-a400m"],
        help="presets, config.json files, 64x48x4x2-swiglu",
    )
    result.add_argument("--tokens", type=numbers, default=[1, 16, 128, 1024])
    result.add_argument("--dtype", choices=list(DTYPES), default="float32")
    result.add_argument("--load", default=Asked.load, help="over the experts, for all rows")
    result.add_argument("--skew", default=Asked.skew, help="load for the hand-out of work, too")
    result.add_argument("--budget", type=float, default=Asked.budget_s, help="seconds of a race")
    result.add_argument("--db", type=Path)
    result.add_argument("--out", type=Path, help="write what was measured as JSON, after each cell")
    result.add_argument("--render", type=Path, help="print such a file and measure nothing")
    return result


def stored(path: Path) -> dict[str, Any]:
    """What --out wrote."""
    if not path.exists():
        raise UsageError(f"{path}: no such file; give one that --out wrote")
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures every cell; what there is so far is stored after each."""
    target = detect()
    asked = Asked(options.load, options.skew, options.budget)
    data: dict[str, Any] = {"about": surroundings(target, options), "cells": []}
    for model in options.model:
        problem = layer(model, options.dtype)
        for tokens in options.tokens:
            cell = measure(problem, target, options.db, tokens, asked, tell)
            data["cells"].append(asdict(cell))
            if options.out:
                options.out.write_text(json.dumps(data, indent=1) + "\n")
    return data


def tell(note: str) -> None:
    print(note, file=sys.stderr)


def layer(model: str, dtype: str) -> Problem:
    """The layer of a model, with as many of its experts as there is memory for."""
    whole = problem_of(model).replace(dtype=dtype)
    problem = fitted(whole, COPIES, footprint.available_bytes() - RESERVE_BYTES)
    if problem.num_experts < whole.num_experts:
        problem = problem.replace(name=f"{whole.name}-e{problem.num_experts}")
    return problem


def surroundings(target: Target, options: argparse.Namespace) -> dict[str, str]:
    """What a reader has to know to judge the numbers, and the command that repeats them."""
    command = ["python", "benchmarks/cpu_ablation.py", "--model", ",".join(options.model)]
    command += ["--tokens", ",".join(map(str, options.tokens)), "--dtype", options.dtype]
    command += ["--load", options.load, "--skew", options.skew, "--budget", f"{options.budget:g}"]
    return {
        "machine": f"{target.describe()}, Linux {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": f"{toolchain_version()}, Python {platform.python_version()}",
        "data type": options.dtype,
        "load": options.load,
        "command": shlex.join(command),
    }


if __name__ == "__main__":
    sys.exit(main())
