"""Validate: what was once claimed for this idea from a simulation, beside what is measured here.

Every figure is of this machine and this run: kernels are built, verified against the float64 reference
and timed in turn. Where a claim's own size would take too long, fewer tokens are run and the row says so.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tuner.codegen.compile import compile_source
from tuner.codegen.render import render
from tuner.errors import KernelError
from tuner.intervals import median
from tuner.measure.bench import Entrant, Timing
from tuner.measure.race import Effort
from tuner.measure.verify import Verdict
from tuner.measure.worker import Worker
from tuner.peers import compare
from tuner.problem import PRESETS, Problem
from tuner.problem.workload import Workload
from tuner.space.variant import Variant, default_variant, make
from tuner.store.database import Database
from tuner.target import Target, can_run, named

CLASSIC = PRESETS["classic-moe"]
SERVING = Problem(
    hidden=2048, expert_dim=8192, num_experts=8, top_k=2, activation="relu", expert_bias=True,
    name="serving",
)  # fmt: skip
# The serving claims are of so many tokens in a call; here a call has fewer.
CLAIMED_TOKENS, SERVING_TOKENS = 16384, 512
PEER_TOKENS = (1, 128, 1024)
TOKENS = 128
RATE_TOKENS = 1024
SEED = 0
_RACE = Effort(budget_s=4.0, least_rounds=9, most_rounds=400, precision=0.005)
_LONG = Effort(budget_s=12.0, least_rounds=20, most_rounds=40, precision=1e-4)
_TURNS = 8
_TURN = Effort(budget_s=0.3, least_rounds=9, most_rounds=60)
_ASK_S = 300.0
_NARROW = "x86-64-v2"

Report = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """A figure with its interval, and how it was measured; no value where it was not, and why not."""

    value: float | None
    low: float = 0.0
    high: float = 0.0
    how: str = ""


@dataclass(frozen=True)
class Row:
    """A claim beside what was measured.

    Attributes:
        claimed: in words; ``least`` of it is what has to be reached (``most`` for a latency).
        holds: whether the measured figure reaches it; None where it was not measured.
        stored: what other machines' rows in the database say, in words.
    """

    claim: str
    claimed: str
    unit: str
    measured: Measured
    holds: bool | None
    stored: str = ""


# Key of what is measured -> the claim, its figure in words, the bound it has to reach, unit.
_CLAIMS: dict[str, tuple[str, str, float, str]] = {
    "numpy": ("speed over NumPy", "382.9", 382.9, "times"),
    "torch": ("speed over optimised PyTorch", "44.7", 44.7, "times"),
    "dense": ("speed over the dense layer", "7.0", 7.0, "times"),
    "simd": ("what SIMD gives", "15 to 60", 15.0, "times"),
    "constants": ("what compile-time sizes give", "2", 2.0, "times"),
    "scratch": ("what the scratch pool saves", "20 to 50", 20.0, "% of the time"),
    "tokens": ("throughput", "23.4 million", 23.4e6, "tokens/s"),
    "gflops": ("rate at the serving size", "2,155", 2155.0, "GFLOP/s"),
    "serving": ("throughput at the serving size", "349,596", 349_596.0, "tokens/s"),
    "p95": ("p95 latency of 16,384 tokens", "47.37", 47.37, "ms"),
}
_LATENCY = "p95"
_OF_SERVING = ("gflops", "serving", "p95")


def rows(measured: Mapping[str, Measured], stored: Mapping[str, str]) -> list[Row]:
    """Every claim with its verdict: it holds only if the measured figure reaches the claimed one."""
    made = []
    for key, (claim, claimed, bound, unit) in _CLAIMS.items():
        found = measured.get(key, Measured(None, how="not measured"))
        holds = None
        if found.value is not None:
            holds = found.value <= bound if key == _LATENCY else found.value >= bound
        made.append(Row(claim, claimed, unit, found, holds, stored.get(key, "")))
    return made


def stored_elsewhere(db: Database) -> dict[str, str]:
    """What rows of accelerators in the database say of the same sizes, by key of the claims."""
    told: dict[str, list[str]] = {}
    for problem, keys in ((CLASSIC, ("tokens",)), (SERVING, _OF_SERVING)):
        for dtype in ("float32", "bfloat16", "float16"):
            for row in db.best(problem.replace(dtype=dtype).digest):
                if row["target"]["kind"] != "cpu":
                    for key in keys:
                        told.setdefault(key, []).append(_of_row(key, row, dtype))
    return {key: "; ".join(filter(None, parts)) for key, parts in told.items()}


def _of_row(key: str, row: Mapping[str, Any], dtype: str) -> str:
    place = f"{row['target_name'] or row['arch']}, {dtype}, T={row['tokens']}"
    if key == _LATENCY:
        return f"{row['p95_ns'] / 1e6:.3g} ms ({place})" if row["p95_ns"] else ""
    if key == "gflops":
        return f"{row['gflop_s']:,.0f} GFLOP/s ({place})" if row["gflop_s"] else ""
    return f"{row['tokens'] / row['median_ns'] * 1e9:,.0f} tokens/s ({place})"


def measure(target: Target, db: Database, report: Report) -> dict[str, Measured]:
    """All that can be measured here, in about five minutes.

    Raises:
        CompileError: the toolchain is missing.
        KernelError: a kernel is wrong, so its time would mean nothing.
        WorkerError: a measuring process crashed or hung.
    """
    found: dict[str, Measured] = {}
    for part in (_against_peers, _against_itself, _against_dense, _serving):
        found |= part(target, db, report)
    return found


def _against_peers(target: Target, db: Database, report: Report) -> dict[str, Measured]:
    """The largest ratio over three token counts: a claim names none."""
    names = [name for name in ("numpy", "torch") if name in compare.installed()]
    found = {
        name: Measured(None, how=f"{name} is not installed; pip install 'moetune[compare]'")
        for name in ("numpy", "torch")
    }
    all_rows = compare.side_by_side(CLASSIC, target, db, PEER_TOKENS, names, report=report)
    for name in names:
        own = [row for row in all_rows if row.peer == name]
        best = max(own, key=lambda row: row.ratio)
        others = ", ".join(f"{row.ratio:.2f} at {row.tokens}" for row in own)
        how = (
            f"classic-moe, its fastest form ({best.form}), at T={best.tokens}; by tokens: {others}"
        )
        found[name] = Measured(best.ratio, best.ratio_low, best.ratio_high, how)
    ours = max(all_rows, key=lambda row: row.tokens / row.ours_median_ns)
    rate = ours.tokens / ours.ours_median_ns * 1e9
    found["tokens"] = Measured(rate, rate, rate, f"classic-moe, T={ours.tokens}, median")
    return found


def _against_itself(target: Target, db: Database, report: Report) -> dict[str, Measured]:
    """The default kernel in one race with kernels that do without something."""
    default = default_variant(CLASSIC, target, tokens=TOKENS)
    kernels: list[tuple[str, Variant, Target, str]] = [
        ("default", default, target, render(CLASSIC, default).text),
        *_without(default, target),
    ]
    report(f"classic-moe: building {len(kernels)} kernels")
    entrants = [
        Entrant.of(compile_source(text, place).path, variant) for _, variant, place, text in kernels
    ]
    with Worker(CLASSIC, target, SEED) as worker:
        for entrant, (name, variant, _, _) in zip(entrants, kernels, strict=True):
            _verify(worker, entrant, variant, TOKENS, name)
        report("classic-moe: timing kernels that do without something")
        timing: Timing = worker.ask(
            "race", entrants, Workload(TOKENS), _RACE, "warm", timeout_s=_ASK_S
        )
    found = {
        "simd": Measured(None, how=f"code for {_NARROW} does not run here"),
        "constants": Measured(None, how="only in a checkout, which has benchmarks/ablation"),
    }
    for number, (name, *_) in enumerate(kernels[1:], start=1):
        ratio = timing.race.ratio(number)
        found[name] = Measured(ratio.value, ratio.low, ratio.high, f"{_HOW[name]}, T={TOKENS}")
    scratch = found["scratch"]
    assert scratch.value is not None
    share, low, high = (100 * (1 - 1 / v) for v in (scratch.value, scratch.low, scratch.high))
    return found | {"scratch": Measured(share, low, high, scratch.how)}


_HOW = {
    "simd": f"classic-moe, vectors of 4 lanes ({_NARROW}) against this machine's; no scalar form exists",
    "constants": "classic-moe, the layer's sizes at run time against constants",
    "scratch": "classic-moe, fresh pages for each call against kept ones",
}


def _without(default: Variant, target: Target) -> Iterator[tuple[str, Variant, Target, str]]:
    narrow = named(_NARROW) if target.vendor in ("amd", "intel") else target
    if narrow != target and can_run(target, narrow.features):
        variant = default_variant(CLASSIC, narrow, tokens=TOKENS)
        yield "simd", variant, narrow, render(CLASSIC, variant).text
    hidden = _hide_sizes()
    if hidden is not None:
        yield "constants", default, target, hidden(render(CLASSIC, default).text)
    fresh = make(default.template, {**default.config, "scratch_keep": 0})
    yield "scratch", fresh, target, render(CLASSIC, fresh).text


def _hide_sizes() -> Callable[[str], str] | None:
    """What turns a kernel's sizes into run-time ones: a part of the ablation, which only a checkout has."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    if not (folder / "ablation" / "run_time.py").is_file():
        return None
    sys.path.insert(0, str(folder))
    try:
        made: Callable[[str], str] = importlib.import_module("ablation.run_time").hide_sizes
    finally:
        sys.path.remove(str(folder))
    return made


def _against_dense(target: Target, db: Database, report: Report) -> dict[str, Measured]:
    """The layer and one dense layer of all its weights, in two processes that take turns."""
    dense = replace(
        CLASSIC, num_experts=1, top_k=1, expert_dim=CLASSIC.expert_dim * CLASSIC.num_experts
    )
    report("classic-moe: against a dense layer of as many weights")
    problems = (CLASSIC, dense)
    variants = [default_variant(problem, target, tokens=TOKENS) for problem in problems]
    entrants = [
        Entrant.of(compile_source(render(p, v).text, target).path, v)
        for p, v in zip(problems, variants, strict=True)
    ]
    with Worker(CLASSIC, target, SEED) as ours, Worker(dense, target, SEED) as theirs:
        workers = (ours, theirs)
        for worker, entrant, variant in zip(workers, entrants, variants, strict=True):
            _verify(worker, entrant, variant, TOKENS, "dense layer")
        turns = [
            [_alone(worker, entrant) for worker, entrant in zip(workers, entrants, strict=True)]
            for _ in range(_TURNS)
        ]
    ratio = median([dense_ns / moe_ns for moe_ns, dense_ns in turns])
    how = f"classic-moe against one layer of its {CLASSIC.num_experts} experts' width, T={TOKENS}"
    return {"dense": Measured(ratio.value, ratio.low, ratio.high, how)}


def _alone(worker: Worker, entrant: Entrant) -> float:
    timing: Timing = worker.ask(
        "race", [entrant], Workload(TOKENS), _TURN, "warm", timeout_s=_ASK_S
    )
    return timing.race.time(0).value


def _serving(target: Target, db: Database, report: Report) -> dict[str, Measured]:
    variant = default_variant(SERVING, target, tokens=SERVING_TOKENS)
    report(f"serving size: building, verifying and timing {SERVING_TOKENS} tokens a call")
    entrant = Entrant.of(compile_source(render(SERVING, variant).text, target).path, variant)
    with Worker(SERVING, target, SEED) as worker:
        _verify(worker, entrant, variant, 1, "serving size")
        workload = Workload(SERVING_TOKENS)
        timing: Timing = worker.ask("race", [entrant], workload, _LONG, "warm", timeout_s=_ASK_S)
    time = timing.race.time(0)
    count = len(timing.race.times_ns[0])
    factor = CLAIMED_TOKENS / SERVING_TOKENS
    size = "D 2048, F 8192, E 8, k 2, two matrices, float32"
    how = f"{size}; T={SERVING_TOKENS} instead of {CLAIMED_TOKENS}, {count} calls"
    p95_ms = timing.race.percentile(0, 95.0) * factor / 1e6
    return {
        "gflops": _rate(timing.flops, time, how),
        "serving": _rate(SERVING_TOKENS * 1e9, time, how),
        "p95": Measured(p95_ms, p95_ms, p95_ms, f"{how}; times {factor:g}"),
    }


def _rate(work: float, time: Any, how: str) -> Measured:
    return Measured(work / time.value, work / time.high, work / time.low, how)


def _verify(worker: Worker, entrant: Entrant, variant: Variant, tokens: int, name: str) -> None:
    verdict: Verdict = worker.ask(
        "verify", entrant, tokens, variant.config["tile_rows"], timeout_s=_ASK_S
    )
    if not verdict.ok:
        raise KernelError(f"{name}: {variant.name} is wrong: {verdict.message}; report it")


def count(found: Sequence[Row]) -> dict[str, int]:
    """How many claims hold, don't, and were not measured."""
    words = {True: "hold", False: "do not hold", None: "not measured"}
    return {word: sum(row.holds is value for row in found) for value, word in words.items()}
