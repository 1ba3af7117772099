"""Records a full grid of one cell: every valid point built, verified and raced against the default.

    python benchmarks/record_grid.py --model granite-3.0-1b-a400m --tokens 128 \\
        --db grid.sqlite3 --out benchmarks/data/granite-float32-T128.t4.json.gz

Every trial is stored in the database when it ends: stopped at any moment, or at the end of
--budget, the same command goes on. The file is written at the end of each run and holds what is
there so far; `benchmarks/search_compare.py` wants it whole. Needs a quiet machine.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from tuner.cli.options import seconds
from tuner.codegen.compile import toolchain_version
from tuner.codegen.render import render
from tuner.errors import MoetuneError, TemplateError, UsageError
from tuner.measure import trial as trials
from tuner.measure.bench import Entrant, is_cold
from tuner.measure.metrics import measurement
from tuner.measure.race import Effort
from tuner.measure.worker import Worker
from tuner.problem import Problem
from tuner.problem.forms import DTYPE_BYTES
from tuner.problem.workload import Workload
from tuner.space import space as spaces
from tuner.space.space import Space
from tuner.space.variant import CPU_TEMPLATE, Variant, make
from tuner.store import t4
from tuner.store.database import Database
from tuner.store.records import TrialRow, now
from tuner.target import detect

# The first race of a point tells good from bad. Those that come near the best are raced again, for
# longer: of hundreds of short races the least time is that of the luckiest, not of the fastest.
EFFORT = Effort(budget_s=0.4, least_rounds=5, precision=0.005)
AGAIN = Effort(budget_s=1.5, least_rounds=15, precision=0.003)
NEAR = 1.08
BATCH = 8
BUILDERS = 2

# The grids that --grid stands for: (model, dtype, tokens) -> what varies. Each holds forms that are known to
# lose (narrow vectors, few rows, no prefetch) beside those that win somewhere.
GRIDS = {
    ("granite-3.0-1b-a400m", "float32", 128): (
        "simd_width=8,16;tile_rows=2,6,10,14;tile_vectors=2,4;act_block=1,16,64;depth_block=0,256;"
        "prefetch=0,32;prefetch_panel=0,1;chunks=1,2"
    ),
    ("granite-3.0-1b-a400m", "bfloat16", 16): (
        "tile_rows=2,6,12;tile_vectors=2,4;panel_vectors=1,2;act_block=16,64;prefetch=0,64;"
        "prefetch_rows=2,6;chunks=1,2;dot=0,1;combine=0,1"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        recorder = Recorder(options)
        with Database(options.db) as database:
            recorder.record(database, options.budget)
            recorder.write(database, options.out)
    except KeyboardInterrupt:
        print("stopped; everything measured is kept, the same command goes on", file=sys.stderr)
        return 130
    except MoetuneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description="record a full grid of one cell")
    result.add_argument("--model", required=True, help="a preset or a config.json")
    result.add_argument("--hidden", type=int, help="another width than the model's")
    result.add_argument("--expert-dim", type=int)
    result.add_argument("--experts", type=int)
    result.add_argument("--top-k", type=int)
    result.add_argument("--dtype", choices=list(DTYPE_BYTES), default="float32")
    result.add_argument("--tokens", type=int, required=True)
    result.add_argument("--load", default="uniform")
    result.add_argument("--grid", help="NAME=VALUE,VALUE;NAME=VALUE,...; others keep the default")
    result.add_argument("--db", type=Path, required=True)
    result.add_argument("--out", type=Path, required=True, help="a .t4.json.gz")
    result.add_argument("--budget", type=seconds, default=7200.0, help="90s, 40m, 2h")
    result.add_argument("--seed", type=int, default=0, help="of the weights and of the order")
    return result


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def problem_of(options: argparse.Namespace) -> Problem:
    path = Path(options.model)
    problem = Problem.from_hf_config(path) if path.exists() else Problem.preset(options.model)
    changes = {
        "hidden": options.hidden,
        "expert_dim": options.expert_dim,
        "num_experts": options.experts,
        "top_k": options.top_k,
        "dtype": options.dtype,
    }
    return problem.replace(**{name: value for name, value in changes.items() if value is not None})


def grid_of(options: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    text = options.grid or GRIDS.get((options.model, options.dtype, options.tokens))
    if text is None:
        cells = ", ".join(f"{m} {d} T={t}" for m, d, t in GRIDS)
        raise UsageError(f"--grid: missing; only these cells have one of their own: {cells}")
    try:
        parts = (part.split("=") for part in text.split(";"))
        return {name.strip(): tuple(int(v) for v in values.split(",")) for name, values in parts}
    except ValueError as error:
        raise UsageError(f"--grid {text!r}: {error}; write NAME=1,2;NAME=4,8") from error


class Recorder:
    """One cell: what is measured, and the points of its grid in the order in which they are tried."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.problem, self.target = problem_of(options), detect()
        self.workload = Workload(options.tokens, options.load)
        self.seed = options.seed
        file = spaces.load(CPU_TEMPLATE)
        whole = spaces.resolve(file, self.problem, self.target, self.workload.tokens)
        self.space: Space = whole.narrow(grid_of(options))
        self.temperature = "cold" if is_cold(self.workload, "auto") else "warm"
        self.variants = self._ordered()

    def _ordered(self) -> list[Variant]:
        """The default, then the others: shuffled, so that a drift of the machine is no parameter's,
        but those of one packed form together, as packing takes a while."""
        variants = [make(CPU_TEMPLATE, config) for config in self.space.points()]
        random.Random(self.seed).shuffle(variants)
        default = self.space.default
        return sorted(variants, key=lambda v: (v.config != default, v.pack))

    def record(self, database: Database, budget_s: float) -> None:
        """Tries what the database lacks, in batches, until all is there or the time is over."""
        end = time.monotonic() + budget_s
        known = self.known(database)
        todo = [v for v in self.variants if v.id not in known]
        say(f"{len(self.variants)} points, {len(known)} recorded, {len(todo)} to do")
        if not todo and not self.near(database):
            return
        with Worker(self.problem, self.target, self.seed) as worker:
            run = _Run(self, worker, database)
            for batch in _batches(todo):
                run.try_all(batch)
                if time.monotonic() > end:
                    return say("the time is over; the same command goes on")
            for row in self.near(database):
                run.again(row)
                if time.monotonic() > end:
                    return say("the time is over; the same command goes on")

    def near(self, database: Database) -> list[TrialRow]:
        """Trials within NEAR of the best that were raced once only, the fastest first."""
        timed = [
            (row.final.ratio, row)
            for row in self.known(database).values()
            if row.final is not None and row.final.ratio is not None
        ]
        best = min((ratio for ratio, _ in timed), default=0.0)
        near = [(ratio, row) for ratio, row in timed if ratio <= best * NEAR]
        near.sort(key=lambda pair: pair[0])
        return [row for _, row in near if row.final is not None and row.final.kind == "trial"]

    def known(self, database: Database) -> dict[str, TrialRow]:
        """Trials of this grid by variant whose source, compiler and temperature are still the same."""
        keys = (database.add_problem(self.problem), database.add_target(self.target))
        rows = database.trials(*keys, self.workload.tokens, self.workload.load)
        by_id = {row.variant_id: row for row in rows if self._is_current(row)}
        return {v.id: by_id[v.id] for v in self.variants if v.id in by_id}

    def _is_current(self, row: TrialRow) -> bool:
        if row.environment.get("toolchain") != toolchain_version():
            return False
        if row.measurement and row.measurement.temperature != self.temperature:
            return False
        variant = make(CPU_TEMPLATE, row.config)
        return render(self.problem, variant).digest == row.source_digest

    def write(self, database: Database, path: Path) -> None:
        """The recorded points as a T4 file, in the order of the space."""
        known = self.known(database)
        ids = (make(CPU_TEMPLATE, config).id for config in self.space.points())
        rows = [known[id] for id in ids if id in known]
        about = t4.about(self.problem, self.target, self.workload, rows, self.space)
        t4.write(path, t4.document(rows, about))
        say(f"{path}: {len(rows)} of {len(self.variants)} points")


class _Run:
    """The real chain for one recorder: batches are built side by side, then measured one by one."""

    def __init__(self, recorder: Recorder, worker: Worker, database: Database) -> None:
        self.recorder, self.worker, self.database = recorder, worker, database
        self.keys = (
            database.add_problem(recorder.problem),
            database.add_target(recorder.target),
        )
        self.session = f"grid {now()}"
        ceilings = worker.ask("ceilings", timeout_s=trials.RACE_S)
        self.ceilings = ceilings
        self.surroundings = trials.environment(recorder.target, ceilings)
        self.base = self._base()
        self.counts: Counter[str] = Counter()
        self.build_s = self.measure_s = 0.0

    def _base(self) -> Entrant:
        """The default, against which all are raced."""
        default = make(CPU_TEMPLATE, self.recorder.space.default)
        built = trials.build(self.recorder.problem, self.recorder.target, default)
        if built.binary is None:
            raise TemplateError(f"{default.name}: the default is {built.status}: {built.message}")
        return Entrant.of(built.binary.path, default)

    def try_all(self, variants: Sequence[Variant]) -> None:
        start = time.monotonic()
        problem, target = self.recorder.problem, self.recorder.target
        with ThreadPoolExecutor(BUILDERS) as pool:
            builds = list(pool.map(lambda v: trials.build(problem, target, v), variants))
        self.build_s += time.monotonic() - start
        start = time.monotonic()
        for variant, built in zip(variants, builds, strict=True):
            self._try(variant, built)
        self.measure_s += time.monotonic() - start
        self._tell()

    def _try(self, variant: Variant, built: trials.Build) -> None:
        recorder = self.recorder
        outcome = trials.evaluate(
            self.worker, built, variant, self.base, recorder.workload, EFFORT, recorder.temperature
        )
        self.counts[outcome.status] += 1
        self.database.add_variant(
            variant.id, variant.template, variant.name, variant.config, variant.pack
        )
        row = trials.row(
            variant, built, outcome, self.keys, recorder.workload, self.session, self.surroundings
        )
        measured = None
        if outcome.timing is not None:
            last = len(outcome.timing.race.times_ns) - 1
            measured = measurement(
                outcome.timing, last, self.ceilings, recorder.target, recorder.problem
            )
        self.database.record_trial(row, measured)

    def again(self, row: TrialRow) -> None:
        """One longer race of a trial that came near the best, stored beside the first."""
        recorder = self.recorder
        variant = make(CPU_TEMPLATE, row.config)
        built = trials.build(recorder.problem, recorder.target, variant)
        assert built.binary is not None
        assert row.id is not None
        entrants = [self.base, Entrant.of(built.binary.path, variant)]
        timing = self.worker.ask(
            "race",
            entrants,
            recorder.workload,
            AGAIN,
            recorder.temperature,
            timeout_s=trials.RACE_S,
        )
        measured = measurement(timing, 1, self.ceilings, recorder.target, recorder.problem, "final")
        self.database.record_measurement(row.id, measured)
        say(f"again: {variant.name} {measured.ratio:.3f}")

    def _tell(self) -> None:
        done = sum(self.counts.values())
        counts = " ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        say(
            f"{done} tried: {counts}; {self.build_s / done:.1f} s to build and "
            f"{self.measure_s / done:.1f} s to verify and time each"
        )


def _batches(variants: Sequence[Variant]) -> Iterator[list[Variant]]:
    rest = iter(variants)
    while batch := list(islice(rest, BATCH)):
        yield batch


if __name__ == "__main__":
    sys.exit(main())
