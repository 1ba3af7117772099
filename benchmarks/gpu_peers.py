"""Ours against torch's `grouped_mm` on one GPU, in one run: python benchmarks/gpu_peers.py JOB.

JOB is a job folder of `moetune tune --offline` that has run: for each of its token counts the default and the
variants that its trials found fastest run in turn with `torch.nn.functional.grouped_mm`, the L2 cache flushed
before each, every contestant as a CUDA graph. Ours is the whole layer (router, top-k, sort, both products,
combine); grouped_mm is the two products on tokens that are sorted already, with SwiGLU between them: what
torch would need beside it is not counted. Weights and tokens are the same. It needs torch, NumPy and ml_dtypes;
without moetune installed, PYTHONPATH=JOB/code.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tuner import job as jobs
from tuner import job_data
from tuner.job_run import finalists
from tuner.job_trial import Bench
from tuner.problem import Problem
from tuner.reference import route
from tuner.statistics import median
from tuner.weights import Weights

ROUNDS = 40
WARM_UPS = 5


def on_device(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).cuda()


class GroupedMm:
    """The two products as torch has them: tokens sorted by expert, weights [E, K, N] as views."""

    def __init__(self, problem: Problem, weights: Weights) -> None:
        both = np.concatenate([weights.gate, weights.up], axis=1)
        self.first = on_device(both).transpose(1, 2)
        self.second = on_device(weights.down).transpose(1, 2)
        self.problem, self.weights = problem, weights

    def prepare(self, x: np.ndarray) -> Callable[[], torch.Tensor]:
        """A call on these tokens; sorting is done here, before anything is timed."""
        indices = route(self.problem, self.weights, x)[0]
        order = np.argsort(indices, axis=None, kind="stable")
        counts = np.bincount(indices.ravel(), minlength=self.problem.num_experts)
        tokens = on_device(x[order // self.problem.top_k])
        ends = torch.from_numpy(np.cumsum(counts).astype(np.int32)).cuda()

        def call() -> torch.Tensor:
            hidden = torch.nn.functional.grouped_mm(tokens, self.first, offs=ends)
            gate, up = hidden.chunk(2, dim=1)
            return torch.nn.functional.grouped_mm(
                torch.nn.functional.silu(gate) * up, self.second, offs=ends
            )

        return call


def graph_of(call: Callable[[], torch.Tensor]) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def compare(bench: Bench, peer: GroupedMm, names: list[str], tokens: int) -> dict[str, Any]:
    """Samples in ns of our variants and of the peer, taken in turn."""
    rng = np.random.default_rng([bench.job.seed, tokens])
    x = rng.standard_normal((tokens, bench.problem.hidden), dtype=np.float32)
    x = x.astype(peer.weights.up.dtype)
    works: dict[str, Callable[[], None]] = {}
    arenas = []
    for name in names:
        kernel = bench.kernel(name)
        arena = bench.arena(kernel, tokens)
        arenas.append(arena)
        bench.device.upload(x, arena["x"])
        call = bench.call(kernel, arena, tokens, routed=False)
        call.run(bench.stream)
        bench.device.wait(bench.stream)
        works[name] = bench.replayed(call)
    graph = graph_of(peer.prepare(x))
    outside = torch.cuda.ExternalStream(bench.stream)

    def grouped() -> None:
        with torch.cuda.stream(outside):
            graph.replay()

    works["grouped_mm"] = grouped
    order, samples = list(works), {name: [] for name in works}
    for number in range(ROUNDS + WARM_UPS):
        for place in range(len(order)):
            name = order[(place + number) % len(order)]
            taken = bench.timed(works[name])
            if number >= WARM_UPS:
                samples[name].append(taken)
    for arena in arenas:
        arena.free()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("job", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    job = jobs.read(options.job)
    results = list(jobs.results(options.job))
    torch.cuda.init()
    torch.zeros(1, device="cuda")
    with tempfile.TemporaryDirectory(prefix="moetune-peers-") as name:
        data = Path(name)
        job_data.make(job, data, ())
        bench = Bench(options.job, data)
    peer = GroupedMm(job.layer, job_data.random_weights(job.layer, job.seed))
    print(f"{job.layer.describe()}; {bench.device.name}, torch {torch.__version__}")
    print(" tokens   default    best   grouped_mm   grouped_mm / best   default / best   best is")
    for tokens in job.tokens:
        names = list(dict.fromkeys([job.default(tokens), *finalists(job, tokens, results)]))
        samples = compare(bench, peer, names, tokens)
        times = {name: median(values).value / 1e3 for name, values in samples.items()}
        best = min(names, key=lambda n: times[n])
        print(
            f"{tokens:7} {times[names[0]]:9.1f} {times[best]:7.1f} {times['grouped_mm']:12.1f}"
            f" {times['grouped_mm'] / times[best]:19.2f} {times[names[0]] / times[best]:16.2f}   {best}",
            flush=True,
        )
        if options.json:
            with options.json.open("a") as stream:
                stream.write(json.dumps({"tokens": tokens, "samples": samples}) + "\n")


if __name__ == "__main__":
    main()
