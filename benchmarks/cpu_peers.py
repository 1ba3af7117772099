"""The tuned layer side by side with NumPy, PyTorch and ONNX Runtime, interleaved in one run.

    python benchmarks/cpu_peers.py --models olmoe-1b-7b,1024x4096x8x2-relu --tokens 1,128 --out rows.json
    python benchmarks/cpu_peers.py --preset-run issue --out rows.json --plot ratios.svg
    python benchmarks/cpu_peers.py --render rows.json --plot ratios.svg
    python benchmarks/cpu_peers.py --render rows.json --brief --plot ratios.svg > docs/results/models.md

It measures what is in the database (MOETUNE_DB, --db), else the winners that moetune brings, and doesn't
tune: the column `match` tells how each variant was chosen. With MOETUNE_SHIPPED=0 and an empty database it
measures the template's defaults. Rows are written to --out as they come: stopped, the same command goes
on from there, and measures again what other processes disturbed. Needs nothing else running on the
machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from peer_brief import brief
from peer_page import page
from peer_plot import check, plot
from peer_rows import Row, RowsFile

from tuner.codegen.compile import toolchain_version
from tuner.errors import MoetuneError, UsageError
from tuner.peers import compare
from tuner.peers.table import PEERS
from tuner.problem import Problem, footprint
from tuner.problem.forms import ACTIVATIONS
from tuner.problem.workload import Workload
from tuner.store.database import Database, default_path
from tuner.target import Target, detect

MODELS = ("granite-3.0-1b-a400m", "classic-moe")
TOKENS = (1, 4, 16, 128, 512, 2048)
DTYPES = ("float32", "bfloat16")
LOADS = ("uniform", "zipf:1.2", "onehot")
# Shapes D x F x E x k with the number of tokens at which each has a goal, two of them at decode too.
PRESET_RUNS = {
    "issue": {
        "1024x4096x8x2-relu": (512,),
        "1024x2816x8x2-swiglu": (1, 4, 16, 256),
        "2048x1024x16x4-swiglu": (1, 4, 16, 128),
        "512x1024x32x4-swiglu": (2048,),
    }
}
_SHAPE = re.compile(rf"(\d+)x(\d+)x(\d+)x(\d+)-({'|'.join(ACTIVATIONS)})")
# What is left to everything but weights: interpreters, libraries, tokens, scratch.
RESERVE_BYTES = 3 << 30


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        if options.plot:
            check(options.plot)
        if options.render:
            if not options.render.exists():
                raise UsageError(f"{options.render}: no such file; give one that --out wrote")
            show(RowsFile(options.render), options)
            return 0
        failures = measure(options)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the rows in --out", file=sys.stderr)
        return 130
    except MoetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="the tuned layer against other libraries")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--models", type=words, help="presets, config.json files, 64x48x4x2-swiglu")
    what.add_argument("--preset-run", choices=PRESET_RUNS, help="models with their own tokens")
    what.add_argument("--render", type=Path, metavar="FILE.json", help="show rows, don't measure")
    parser.add_argument("--experts", type=int, help="no more experts than this in any model")
    parser.add_argument("--tokens", type=numbers, help=",".join(map(str, TOKENS)))
    parser.add_argument("--dtypes", type=words, default=list(DTYPES))
    parser.add_argument("--loads", type=words, help=f"{','.join(LOADS)}; preset runs: uniform")
    parser.add_argument("--against", type=words, default=list(compare.installed()))
    parser.add_argument("--db", type=Path, default=default_path())
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the rows")
    parser.add_argument("--again", action="store_true", help="measure the rows that it has, too")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    parser.add_argument("--forms", action="store_true", help="tell every form of the peers")
    parser.add_argument(
        "--brief", action="store_true", help="with --render: a page for docs/, the best peers alone"
    )
    options = parser.parse_args(arguments)
    if options.brief and not options.render:
        parser.error("--brief needs --render FILE.json")
    if options.preset_run and options.tokens:
        parser.error("--preset-run has tokens of its own; leave --tokens out")
    options.loads = options.loads or (["uniform"] if options.preset_run else list(LOADS))
    return options


def words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def numbers(text: str) -> list[int]:
    return [int(word) for word in words(text)]


@dataclass(frozen=True)
class Job:
    """A layer, the experts that its model has, and what it is asked to do."""

    problem: Problem
    of_experts: int
    workloads: tuple[Workload, ...]


def measure(options: argparse.Namespace) -> list[str]:
    """Fills the file and shows it; what failed, in words."""
    compare.require(options.against)
    target = detect()
    file = RowsFile(options.out)
    run = file.start(surroundings(target, options))
    failures = []
    with Database(options.db) as database:
        for job in jobs(options, file):
            for against, workloads in lacking(job, file, options):
                failures += fill(file, run, job, target, database, workloads, against)
    show(file, options)
    return failures


def show(file: RowsFile, options: argparse.Namespace) -> None:
    if options.brief:
        print(brief(file.runs, file.rows, options.render, options.plot))
    else:
        print(page(file.runs, file.rows, options.forms))
    if options.plot:
        plot(file.rows, options.plot)


def jobs(options: argparse.Namespace, file: RowsFile) -> Iterator[Job]:
    """Every model in every data type, as many of its experts as there is memory for."""
    own = PRESET_RUNS.get(options.preset_run, {})
    for model in own or options.models or MODELS:
        whole = problem_of(model)
        tokens = own.get(model) or options.tokens or TOKENS
        workloads = tuple(Workload(t, load) for load in options.loads for t in tokens)
        for dtype in options.dtypes:
            problem = whole.replace(dtype=dtype)
            before = 0 if options.again else file.experts(problem.name, dtype)
            if before or options.experts:
                experts = min(before or options.experts, whole.num_experts)
                problem = problem.replace(num_experts=experts)
            else:
                have = footprint.available_bytes() - RESERVE_BYTES
                problem = fitted(problem, compare.copies(problem, options.against), have)
            yield Job(problem, whole.num_experts, workloads)


def problem_of(model: str) -> Problem:
    """A preset, the layer of a Hugging Face config.json, or sizes and form: DxFxExk-form."""
    shape = _SHAPE.fullmatch(model)
    if shape:
        d, f, e, k = map(int, shape.groups()[:4])
        return Problem(
            hidden=d, expert_dim=f, num_experts=e, top_k=k, activation=shape[5], name=model
        )
    path = Path(model)
    return Problem.from_hf_config(path) if path.exists() else Problem.preset(model)


def fitted(problem: Problem, copies: float, have_bytes: int) -> Problem:
    """The problem with its experts halved until so many copies fit: numbers that stay the same when
    the free memory changes a little. The most that fit where halves are too few to choose from."""
    fit = footprint.experts_that_fit(problem, copies, have_bytes)
    if problem.num_experts <= fit:
        return problem
    halves = [problem.num_experts >> n for n in range(1, problem.num_experts.bit_length())]
    least = least_experts(problem)
    good = [n for n in halves if least <= n <= fit and n % problem.num_groups == 0]
    if fit < least:
        need = copies * footprint.weights_bytes(problem.replace(num_experts=least)) / 2**30
        raise UsageError(
            f"{problem.name}: {copies:.3g} copies of the weights of {least} experts take {need:.1f} "
            f"GiB, {have_bytes / 2**30:.1f} GiB are free; leave it out, or some of --against"
        )
    return problem.replace(num_experts=good[0] if good else fit)


def least_experts(problem: Problem) -> int:
    """The fewest among which a token still has a choice, in whole groups."""
    experts = -(-problem.top_k // problem.top_groups) * problem.num_groups
    return experts if experts > problem.top_k else experts + problem.num_groups


def lacking(
    job: Job, file: RowsFile, options: argparse.Namespace
) -> list[tuple[tuple[str, ...], list[Workload]]]:
    """The workloads that lack rows, with the peers that lack them."""
    found: dict[tuple[str, ...], list[Workload]] = {}
    model, dtype = job.problem.name, job.problem.dtype
    for w in job.workloads:
        names = tuple(
            name
            for name in options.against
            if options.again or not file.holds((model, dtype, w.load, w.tokens, name))
        )
        if names:
            found.setdefault(names, []).append(w)
    return list(found.items())


def fill(
    file: RowsFile,
    run: int,
    job: Job,
    target: Target,
    database: Database,
    workloads: Sequence[Workload],
    against: Sequence[str],
) -> list[str]:
    """Measures and keeps rows; a workload that fails is told and left out."""
    p, left, failures = job.problem, list(workloads), []
    while left:
        try:
            for rows in compare.compare(p, target, database, tuple(left), against, tell):
                file.add(
                    Row(p.name, p.dtype, p.num_experts, job.of_experts, run, row) for row in rows
                )
                del left[0]
        except MoetuneError as error:
            if isinstance(error, UsageError):
                raise
            failures.append(f"{p.name} {p.dtype} T={left[0].tokens} {left[0].load}: {error}")
            del left[0]
    return failures


def tell(note: str) -> None:
    print(note, file=sys.stderr, flush=True)


def surroundings(target: Target, options: argparse.Namespace) -> dict[str, str]:
    """What a reader has to know to judge the numbers, and the command that repeats them."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    versions = [
        toolchain_version(),
        f"Python {platform.python_version()}",
        f"NumPy {np.__version__} ({blas['name']} {blas['version']})",
    ]
    for name in (n for n in compare.installed() if n in options.against and n != "numpy"):
        peer = PEERS[name]
        versions.append(f"{peer.title or name} {importlib.metadata.version(peer.modules[0])}")
    return {
        "machine": f"{target.describe()}, Linux {platform.release()}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "versions": ", ".join(versions),
        "command": f"`{shlex.join(command(options))}`",
    }


def command(options: argparse.Namespace) -> list[str]:
    """What measures the same rows; --db, --out and --plot are the caller's own."""
    asked = {
        "--preset-run": options.preset_run,
        "--models": None if options.preset_run else ",".join(options.models or MODELS),
        "--experts": options.experts,
        "--tokens": None if options.preset_run else ",".join(map(str, options.tokens or TOKENS)),
        "--dtypes": ",".join(options.dtypes),
        "--loads": ",".join(options.loads),
        "--against": ",".join(options.against),
    }
    given = [[name, str(value)] for name, value in asked.items() if value]
    return ["python", "benchmarks/cpu_peers.py", *(word for pair in given for word in pair)]


if __name__ == "__main__":
    sys.exit(main())
