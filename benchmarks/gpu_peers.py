"""The layer against PyTorch on one GPU, in one run: python benchmarks/gpu_peers.py JOB --out samples.jsonl

JOB is a job folder of `moetune tune --offline` that has run. For each number of tokens and load the default and
the fastest variants of the job's trials (of its nearest number of tokens) run in turn with the peers of
benchmarks/gpu_peer_torch.py and, where Triton is installed, gpu_peer_triton.py, the L2 cache flushed before
each, every contestant as a CUDA graph, timed by events of the device. Ours is the whole layer: router, top-k,
sort, both products, combine. Weights, tokens and routing are the same. Needs torch, NumPy and ml_dtypes;
without moetune installed, PYTHONPATH=JOB/code.

`python benchmarks/gpu_peer_page.py samples.jsonl` makes the table and the plot, on any machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_peer_torch import Call, EagerLoop, GroupedMm, Matrices, VllmFused, refusal

from tuner.gpu.kernel import GpuKernel
from tuner.gpu.program import layer_program
from tuner.intervals import median
from tuner.measure.metrics import drawn_work
from tuner.offline import data, gpu
from tuner.offline import job as jobs
from tuner.offline.job import Job
from tuner.offline.run import finalists
from tuner.problem.arrays import NUMPY_DTYPES
from tuner.problem.workload import Workload, route_by_load

TOKENS = (1, 16, 128, 1024, 4096, 16384)
LOADS = ("uniform", "zipf:1.2", "onehot")
ROUNDS = 30
WARM_UPS = 4
OURS_AT_MOST = 3  # variants of ours beside the peers

Work = Callable[[], None]


def graph_of(call: Call) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def contestants(matrices: Matrices) -> list[Any]:
    """The peers that can run here."""
    found: list[Any] = [GroupedMm(matrices), EagerLoop(matrices)]
    if importlib.util.find_spec("triton") is not None:
        from gpu_peer_triton import Times, TritonFused, TritonLayer

        times: Times = {}
        able = [c for c in (TritonFused, TritonLayer) if not c.refusal(matrices.problem)]
        found += [c(matrices, times) for c in able]
    return [*found, VllmFused(matrices)] if VllmFused.installed() else found


class Mine:
    """A card with a job's weights, and the job's programs by name."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder, self.job = folder, jobs.read(folder)
        self.bench = gpu.card_of(self.job, folder, data)
        self._kernels: dict[str, GpuKernel] = {}

    def kernel(self, name: str) -> GpuKernel:
        """A variant, loaded once."""
        if name not in self._kernels:
            text = (self.folder / self.job.variant(name).file).read_text()
            program = layer_program(self.job.layer, text, name)
            self._kernels[name] = GpuKernel(self.bench.device, program)
        return self._kernels[name]


class Comparison:
    """One job's layer with all that runs it."""

    def __init__(self, mine: Mine, matrices: Matrices) -> None:
        self.mine, self.bench, self.peers = mine, mine.bench, contestants(matrices)

    def cell(self, workload: Workload, names: Sequence[str]) -> dict[str, list[float]]:
        """Samples in ns of our variants and of the peers, taken in turn."""
        bench, tokens = self.bench, workload.tokens
        seed = self.mine.job.seed
        rng = np.random.default_rng([seed, tokens])
        x = rng.standard_normal((tokens, bench.problem.hidden), dtype=np.float32)
        x = x.astype(NUMPY_DTYPES[bench.problem.dtype])
        # Random tokens route uniformly by themselves; other loads are imposed on everybody.
        routing = None
        if workload.load != "uniform":
            routing = route_by_load(bench.problem, workload, seed)
        ready = [bench.ready(self.mine.kernel(name), workload, seed) for name in names]
        works: dict[str, Work] = {name: work for name, (work, _) in zip(names, ready, strict=True)}
        kept: list[Call] = []
        outside = torch.cuda.ExternalStream(bench.stream)
        for peer in self.peers:
            call = peer.prepare(x, routing)
            graph = graph_of(call)
            kept.append(call)  # a graph does not keep the tensors that it reads
            works[peer.name] = lambda graph=graph: self._replay(graph, outside)
        times = bench.in_turn(list(works.values()), ROUNDS, WARM_UPS)
        for _, arena in ready:
            arena.free()
        return dict(zip(works, times, strict=True))

    @staticmethod
    def _replay(graph: torch.cuda.CUDAGraph, stream: torch.cuda.ExternalStream) -> None:
        with torch.cuda.stream(stream):
            graph.replay()


def ours(job: Job, tokens: int, results: Sequence[dict[str, Any]]) -> list[str]:
    """The default of the job's nearest number of tokens, and the fastest in its trials."""
    nearest = min(job.tokens, key=lambda t: abs(np.log(t / tokens)))
    best = finalists(job, nearest, results)[:OURS_AT_MOST]
    return list(dict.fromkeys([job.default(nearest), *best]))


def line(mine: Mine, workload: Workload, samples: dict[str, list[float]]) -> dict[str, Any]:
    """What is kept of a cell, with what a reader has to know to judge it."""
    job = mine.job
    work = drawn_work(job.layer, workload, job.seed)
    return {
        "model": job.layer.name or job.problem_name,
        "dtype": job.layer.dtype,
        "experts": job.layer.num_experts,
        "tokens": workload.tokens,
        "load": workload.load,
        "default": next(iter(samples)),
        "flops": work[0],
        "bytes": work[1],
        "samples": samples,
        "device": mine.bench.device.name,
        "torch": torch.__version__,
        "toolchain": job.environment["toolchain"],
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--tokens", default=",".join(map(str, TOKENS)))
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", required=True)
    options = parser.parse_args()
    job = jobs.read(options.job)
    results = jobs.results(options.job, job).lines
    if why := refusal(job.layer):
        raise SystemExit(f"{job.problem_name}: {why}; compare another model")
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    weights = data.random_weights(job.layer, job.seed)
    with tempfile.TemporaryDirectory(prefix="moetune-peers-") as name:
        gpu.write(job, options.job, weights, Path(name))
        mine = Mine(options.job, Path(name))
        compare(options, Comparison(mine, Matrices(job.layer, weights)), results)


def compare(
    options: argparse.Namespace, comparison: Comparison, results: Sequence[dict[str, Any]]
) -> None:
    """Writes a line for each cell as soon as it is measured."""
    mine = comparison.mine
    job = mine.job
    ceilings = {f"{name}_gb_s": rate for name, rate in mine.bench.ceilings().items()}
    with options.out.open("a") as stream:
        for load in options.loads.split(","):
            for tokens in map(int, options.tokens.split(",")):
                workload = Workload(tokens, load)
                samples = comparison.cell(workload, ours(job, tokens, results))
                told = line(mine, workload, samples) | ceilings
                stream.write(json.dumps(told) + "\n")
                stream.flush()
                times = {n: f"{median(v).value / 1e3:.1f}" for n, v in samples.items()}
                print(f"T={tokens} {load}: {times}", flush=True)


if __name__ == "__main__":
    main()
