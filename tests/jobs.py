"""Job folders without a compiler or a device: programs that say nothing, results as a runner writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.programs import PROBE
from tuner.codegen.compile import Binary
from tuner.codegen.render import render
from tuner.measure.trial import Build
from tuner.offline import job as jobs
from tuner.offline import make
from tuner.offline.batch import Round
from tuner.offline.job import Job
from tuner.offline.make import Made, make_job
from tuner.problem import Problem
from tuner.space.variant import Variant
from tuner.store.database import Database
from tuner.target import Target, named

PROBLEM = Problem(hidden=128, expert_dim=64, num_experts=8, top_k=2, dtype="bfloat16", name="tiny")
DEVICE = {
    "kind": "device", "name": "NVIDIA H100 80GB HBM3", "multiprocessors": 132, "driver": 13000,
    "memory_bytes": 80 << 30, "copy_gb_s": 3000.0, "read_gb_s": 3100.0,
    "dense_gflop_s": 7e5, "clocks": "1980 MHz",
}  # fmt: skip
CPU = Target(
    vendor="intel", arch="sapphirerapids", features=("avx512bf16", "avx512f"), cores=16,
    l1d_bytes=48 << 10, l2_bytes=2 << 20, l3_bytes=100 << 20, name="Some Xeon",
)  # fmt: skip
CPU_DEVICE = {
    "kind": "device", "name": CPU.name, "target": {**CPU.key, "name": CPU.name}, "python": "3.12.1",
    "kernel": "6.1", "load_1m": 0.5, "fma_gflop_s": 2000.0, "read_gb_s": 200.0, "dot_gflop_s": 4000.0,
}  # fmt: skip
# What a CPU's race tells beside its samples.
TIMING = {
    "flops": 1e6, "read_bytes": 1e7, "temperature": "cold", "probe_gb_s": [190.0, 210.0, 200.0],
    "probe_gflop_s": [], "foreign": 0.01, "redone": 0,
}  # fmt: skip


def without_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Every variant builds at once; those of 192 rows don't."""

    def build(problem: Problem, target: Target, variant: Variant) -> Build:
        source = render(problem, variant)
        if variant.config.get("tile_n") == 192:
            return Build(source, None, "compile", "error: too wide", 1.0, 0.0)
        path = folder / f"{variant.name}{'.ptx' if target.kind == 'gpu' else '.so'}"
        path.write_text("//// layer abi 1\n" + "//\n" * 1000)
        return Build(source, Binary(path, f"key-{variant.id}", 2.0, False), "ok", "", 1.0, 2000.0)

    monkeypatch.setattr(make, "build", build)
    probe = folder / "compiled-probe.so"
    probe.write_text("a probe")
    monkeypatch.setattr(make, "toolchain_version", lambda: "Mojo of the test")
    monkeypatch.setattr(make.probes, "of_cpu", lambda target: probe)
    reader = folder / "compiled-probe.ptx"
    reader.write_text(PROBE)
    monkeypatch.setattr(make.probes, "of_gpu", lambda target: reader)
    monkeypatch.setattr(make, "without_search_path", lambda library: library)


def made(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tokens: Sequence[int] = (1, 64),
    trials: int = 4,
    most_bytes: int = 1 << 30,
    target: Target | str = "nvidia-h100",
) -> tuple[Job, Made]:
    """A job folder in ``folder / "job"``."""
    without_compiler(monkeypatch, folder)
    asked = Round(tuple(tokens), "uniform", trials, 0, "auto", most_bytes)
    with Database(folder / "asked.sqlite3") as db:
        hardware = named(target) if isinstance(target, str) else target
        result = make_job(PROBLEM, hardware, db, asked, folder / "job", lambda line: None)
    return jobs.read(folder / "job"), result


def timed(variant: str, tokens: int, ns: float, default_ns: float) -> dict[str, object]:
    """A trial that ran."""
    return {
        "kind": "trial", "variant": variant, "tokens": tokens, "status": "ok", "verify_ms": 5.0,
        "samples": [ns] * 9, "default_samples": [default_ns] * 9, "benchmark_ms": 7.0,
    }  # fmt: skip
