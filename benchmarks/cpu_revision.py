"""The CPU kernels of this checkout beside those of another revision: one process, in turn, paired.

    python benchmarks/cpu_revision.py REVISION [PRESET] [--dtype bfloat16] [--tokens 1,16,128] [--races 3]

Both are the template's default here, on all cores. A copy of the other revision's library runs along: what is
no further from 1 than that is noise. The other revision's kernels have to speak this ABI or the former one.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import tuner
from tuner.codegen.compile import compile_source
from tuner.codegen.probes import of_cpu
from tuner.codegen.render import fill, render
from tuner.measure.bench import Entrant
from tuner.measure.cpu_bench import CpuBench
from tuner.measure.race import Effort
from tuner.problem.workload import Workload
from tuner.space.variant import Variant, default_variant
from tuner.target import Target, detect

ROOT = Path(__file__).resolve().parents[1]
EFFORT = Effort(budget_s=8.0, first_rounds=60, least_rounds=60, most_rounds=2000, precision=0.0)


def templates(revision: str, folder: Path) -> Path:
    """The templates of a revision, unpacked into a folder."""
    command = ["git", "-C", ROOT, "archive", revision, "templates"]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "templates"


def former(problem: tuner.Problem, target: Target, variant: Variant, place: Path) -> Entrant:
    """The same variant of other templates, which may have its threads compiled in."""
    values = {**variant.config, "workers": target.cores, "problem": problem.replace(name="")}
    binary = compile_source(fill(variant.template, values, place), target)
    return Entrant.of(variant, binary.path)


def raced(bench: CpuBench, place: Path, tokens: int) -> str:
    """One race, as a line of the table."""
    variant = default_variant(bench.problem, bench.target, tokens=tokens)
    binary = compile_source(render(bench.problem, variant).text, bench.target)
    other = former(bench.problem, bench.target, variant, place)
    twin = place.parent / f"twin-{tokens}.so"
    if not twin.exists():  # what is loaded must not be written to
        shutil.copyfile(other.path, twin)
    entrants = [other, Entrant.of(variant, binary.path), Entrant.of(variant, twin)]
    for entrant, whose in zip(entrants[:2], ("the other revision", "this checkout"), strict=True):
        verdict = bench.verify(entrant, tokens)
        if not verdict.ok:  # it may be wrong where this one was mended
            print(f"T={tokens}: {whose} is wrong: {verdict.message}")
    timing = bench.race(entrants, Workload(tokens), EFFORT)
    race, rounds = timing.race, len(timing.race.times_ns[0])
    ours, copy = (
        f"{r.value:.4f} ({r.low:.4f} to {r.high:.4f})" for r in (race.ratio(1), race.ratio(2))
    )
    shown = f"T={tokens} ({timing.temperature}) {race.time(0).value / 1e6:.3f} ms"
    return f"{shown}: here {ours}, copy {copy}; {rounds} rounds, others {race.foreign:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision")
    parser.add_argument("preset", nargs="?", default="granite-3.0-1b-a400m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", default="1,16,128")
    parser.add_argument("--races", type=int, default=3)
    arguments = parser.parse_args()
    dtype = arguments.dtype
    problem = tuner.Problem.preset(arguments.preset).replace(dtype=dtype, weight_dtype=dtype)
    bench = CpuBench(problem, detect(), 0, of_cpu)
    print(f"{problem.describe()}: time here over time of {arguments.revision}, and of its copy")
    with tempfile.TemporaryDirectory(prefix="moetune-") as folder:
        place = templates(arguments.revision, Path(folder))
        for tokens in map(int, arguments.tokens.split(",")):
            for _ in range(arguments.races):
                told = raced(bench, place, tokens)
                print(f"{told}, load {os.getloadavg()[0]:.1f}", flush=True)


if __name__ == "__main__":
    main()
