"""Layers on a GPU at run time, on torch's tensors: is all right that docs/gpu.md says, and what costs a call?

On the machine with the compiler, `python benchmarks/gpu_runtime.py --build FOLDER` makes two bundles. On the
machine with the GPU, `python benchmarks/gpu_runtime.py FOLDER` runs them; it needs torch with CUDA, NumPy and
ml_dtypes, and ends with 1 where anything is wrong. tests/device/test_gpu_runtime.py has the same checks.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tuner
from tuner.measure import right_answers, verify
from tuner.offline.data import random_weights
from tuner.problem import Problem
from tuner.problem.arrays import to_torch
from tuner.problem.weights import Weights

DEVICE = "cuda:0"
TOKENS = (1, 7, 128, 1000)
SEED = 11
ALL, ONE = "runtime.moe", "granite.moe"
GRANITE = Problem.preset("granite-3.0-1b-a400m").replace(dtype="bfloat16")
PROBLEMS = (
    GRANITE,
    Problem.preset("qwen3-30b-a3b").replace(dtype="bfloat16"),
    Problem(
        hidden=1024, expert_dim=3584, num_experts=8, top_k=2, dtype="bfloat16", name="mixtral-reduced"
    ),
)  # fmt: skip
# The other forms of routing, and of experts, at small sizes.
_SMALL: dict[str, Any] = {"hidden": 256, "expert_dim": 128, "dtype": "bfloat16"}
ROUTING = (
    Problem.preset("gpt-oss-20b").replace(name="topk-softmax", **_SMALL),
    Problem.preset("deepseek-v3").replace(
        name="grouped-sigmoid", num_experts=64, shared_dim=128, **_SMALL
    ),
    Problem.preset("classic-moe").replace(name="softmax-relu", num_experts=48, top_k=2, **_SMALL),
    Problem.preset("olmoe-1b-7b").replace(
        name="softmax-corrected", correction_bias=True, router_bias=True, **_SMALL
    ),
)
EXTREME_TOKENS = (1, 2, 7, 15, 40, 128, 300)
# A wrong check must not hide the others: its own assertion, ours, torch's, the child's.
FAILURES = (AssertionError, tuner.MoetuneError, RuntimeError, subprocess.SubprocessError)
_SLEEP_CYCLES = 200_000_000  # some 0.1 s


def build(folder: Path, db: Path | None) -> None:
    """Both bundles: one of all problems, and one of granite for `bundle install`."""
    from tuner.bundle.build import build as built
    from tuner.store.database import default_path
    from tuner.target import named

    folder.mkdir(parents=True, exist_ok=True)
    for name, problems in ((ALL, PROBLEMS + ROUTING), (ONE, (GRANITE,))):
        content = built(problems, [named("nvidia-h100")], db or default_path(), print)
        (folder / name).write_bytes(content)
        print(f"{folder / name}: {len(content)} bytes")


class Ready:
    """A problem with random weights, right answers for all token counts, and the bundle's layer."""

    def __init__(self, folder: Path, problem: Problem, on_device: bool) -> None:
        self.problem = problem
        self.weights = random_weights(problem, SEED)
        cases = tuple(right_answers.Case(t, "router", SEED + i) for i, t in enumerate(TOKENS))
        answers = right_answers.Answers(problem, self.weights).of(cases)
        self.expected = dict(zip(TOKENS, answers, strict=True))
        given = self.weights
        if on_device:
            arrays = {n: a for n, a in vars(self.weights).items() if a is not None}
            given = Weights(**{n: to_torch(a).cuda() for n, a in arrays.items()})
        start = time.perf_counter()
        path = folder / ALL
        self.layer: Any = tuner.load(path, given, trust="unsigned", problem=problem, device=DEVICE)
        self.load_s = time.perf_counter() - start

    def x(self, tokens: int) -> Any:
        return to_torch(self.expected[tokens].x.copy()).cuda()


def host(tensor: Any) -> Any:
    """A tensor as NumPy has it."""
    from tuner.problem.arrays import to_numpy

    return to_numpy(tensor.cpu())


def values(ready: Ready) -> Iterator[str]:
    """Outputs and routing against float64."""
    for tokens, expected in ready.expected.items():
        y, indices, weights = ready.layer(ready.x(tokens), return_routing=True)
        wrong, error = verify.compare(expected, host(y), host(indices), host(weights))
        chosen = ready.layer.selection(tokens)
        if wrong:
            raise AssertionError(f"T={tokens}: {wrong}")
        yield f"T={tokens}: error {error:.2e}; {chosen.match}, {chosen.variant}"


def extremes(ready: Ready) -> Iterator[str]:
    """NaN, infinities, huge, denormal and zero tokens among good ones: k different experts, NaN where the
    token is, and the very bits of the others that they have without them."""
    cases = tuple(right_answers.Case(t, "extreme", SEED + t) for t in EXTREME_TOKENS)

    def run(x: Any) -> verify.Answered:
        y, indices, weights = ready.layer(to_torch(x.copy()).cuda(), return_routing=True)
        return verify.Answered(host(y), host(indices), host(weights))

    for expected in right_answers.Answers(ready.problem, ready.weights).of(cases):
        wrong, _ = verify.check(expected, run)
        if wrong:
            raise AssertionError(f"T={expected.case.tokens}: {wrong}")
    yield f"T={', '.join(map(str, EXTREME_TOKENS))}: right, and other tokens bit-identical"


def zero_copy(ready: Ready) -> Iterator[str]:
    """`out` is what is written, x is left alone, and the steady call takes no memory."""
    import torch

    x = ready.x(128)
    before, out = x.clone(), torch.full_like(x, float("nan"))
    place = out.data_ptr()
    assert ready.layer(x, out=out) is out
    first = out.clone()
    torch.cuda.synchronize()
    count = torch.cuda.memory_stats()["allocation.all.allocated"]
    free = torch.cuda.mem_get_info()[0]
    for _ in range(100):
        ready.layer(x, out=out)
    torch.cuda.synchronize()
    taken = torch.cuda.memory_stats()["allocation.all.allocated"] - count
    assert (taken, torch.cuda.mem_get_info()[0]) == (0, free)
    assert out.data_ptr() == place
    assert torch.equal(x, before)
    assert torch.equal(out, first)
    assert torch.equal(ready.layer(x), first)
    yield "100 calls with out=: no allocation by torch, none by the driver, x untouched, y bit-identical"


def streams(ready: Ready) -> Iterator[str]:
    """Work goes to the caller's stream, after what is there, and the call does not wait for it."""
    import torch

    right = {t: ready.layer(ready.x(t)) for t in TOKENS}
    torch.cuda.synchronize()
    for tokens in TOKENS:
        side, source = torch.cuda.Stream(), ready.x(tokens)
        ready.layer.prepare([tokens], stream=side)
        for explicit in (False, True):
            x, y = torch.zeros_like(source), torch.zeros_like(source)
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                torch.cuda._sleep(_SLEEP_CYCLES)
                x.copy_(source, non_blocking=True)
                if not explicit:
                    ready.layer(x, out=y)
            if explicit:
                ready.layer(x, out=y, stream=side)
            assert not side.query(), "the call has waited for its stream"
            with torch.cuda.stream(side):
                copied = y.clone()
            side.synchronize()
            assert torch.equal(copied, right[tokens]), f"T={tokens}"
    yield "current stream and stream=: behind 0.1 s of other work, without waiting, bit-identical"


def threads(ready: Ready) -> Iterator[str]:
    """Four threads with a stream each share the layer."""
    import torch

    right = {t: ready.layer(ready.x(t)) for t in TOKENS}
    torch.cuda.synchronize()
    wrong: list[str] = []

    def work(number: int) -> None:
        torch.cuda.set_device(0)
        with torch.cuda.stream(torch.cuda.Stream()):
            for turn in range(25):
                tokens = TOKENS[(number + turn) % len(TOKENS)]
                x = ready.x(tokens)
                same = torch.equal(ready.layer(x), right[tokens])
                if not same:
                    wrong.append(f"thread {number}, turn {turn}, T={tokens}")

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong, wrong[:3]
    yield "4 threads, 4 streams, 100 calls in all: bit-identical"


def graphs(ready: Ready) -> Iterator[str]:
    """Captured in torch graphs, replayed in turn on new tokens; y in the graph's own memory or in ours."""
    import torch

    right, held = {}, {}
    for tokens in TOKENS:
        x = ready.x(tokens)
        right[tokens] = ready.layer(x)
        for own in (False, True):
            source, out = torch.zeros_like(x), torch.zeros_like(x)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = ready.layer(source) if own else ready.layer(source, out=out)
            held[tokens, own] = graph, source, y
    for turn in range(3):
        for (tokens, own), (graph, source, y) in held.items():
            source.copy_(ready.x(tokens))
            y.fill_(float("nan"))
            graph.replay()
            assert torch.equal(y, right[tokens]), f"T={tokens}, own={own}, turn {turn}"
            source.zero_()
    x = to_torch(np.zeros((5, ready.problem.hidden), ready.weights.up.dtype)).cuda()
    unseen = torch.cuda.CUDAGraph()
    with torch.cuda.graph(unseen):
        y = ready.layer(x)
    x.copy_(ready.x(7)[:5])
    unseen.replay()
    assert torch.equal(y, right[7][:5]), "a token count that was never run before its capture"
    yield f"{len(held)} graphs replayed in turn, 1 of a count that never ran: bit-identical"


class Exported:
    """An array that has DLPack and nothing else."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack__(self, stream: Any = None) -> Any:
        return self._tensor.__dlpack__(stream=stream)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


def dlpack(ready: Ready) -> Iterator[str]:
    """Arrays that are not torch's, eager and in the driver's own graph."""
    import torch

    from tuner.gpu.device import opened

    x = ready.x(128)
    right, y = ready.layer(x), torch.zeros_like(x)
    ready.layer(Exported(x), out=Exported(y))
    torch.cuda.synchronize()
    assert torch.equal(y, right)
    device = opened(DEVICE)
    stream = device.stream()
    y.zero_()
    torch.cuda.synchronize()
    graph = device.graph(lambda s: ready.layer(Exported(x), out=Exported(y), stream=s), stream)
    device.replay(graph, stream)
    device.wait(stream)
    assert torch.equal(y, right)
    yield "DLPack alone, eager and captured: bit-identical"


def refusals(ready: Ready) -> Iterator[str]:
    """What is said of arguments that do not fit."""
    x = ready.x(7)
    wrong: dict[str, Callable[[], Any]] = {
        "on the CPU": lambda: ready.layer(x.cpu()),
        "of another type": lambda: ready.layer(x.float()),
        "not contiguous": lambda: ready.layer(x.t().contiguous().t()),
        "no such GPU": lambda: tuner.load(GRANITE, ready.weights, device="cuda:99"),
    }
    for name, call in wrong.items():
        try:
            call()
        except tuner.MoetuneError as error:
            yield f"{name}: {type(error).__name__}: {error}"
        else:
            raise AssertionError(f"{name}: was taken")


def overhead(ready: Ready) -> Iterator[str]:
    """Host microseconds of a call, and device microseconds of calls one after the other (L2 cache warm)."""
    import torch

    for tokens in (1, 128, 1000):
        x = ready.x(tokens)
        y = torch.empty_like(x)
        forms = {
            "out=": lambda x=x, y=y: ready.layer(x, out=y),
            "layer(x)": lambda x=x: ready.layer(x),
            "routing": lambda x=x: ready.layer(x, return_routing=True),
            "torch.add": lambda x=x, y=y: torch.add(x, x, out=y),
        }
        told = [f"{name} {host_us(call):.1f}" for name, call in forms.items()]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            ready.layer(x, out=y)
        eager, replayed = device_us(forms["out="]), device_us(graph.replay)
        yield (
            f"T={tokens}: host us: {', '.join(told)}; back to back, us: eager {eager:.1f}, graph {replayed:.1f}"
        )


def host_us(call: Callable[[], Any], batch: int = 50, batches: int = 21) -> float:
    """Median over batches; a batch's launches fit the driver's queue, so the GPU holds nobody up."""
    import torch

    taken = []
    for _ in range(batches):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(batch):
            call()
        taken.append((time.perf_counter() - start) / batch)
    torch.cuda.synchronize()
    return 1e6 * float(np.median(taken))


def device_us(call: Callable[[], Any], calls: int = 200) -> float:
    import torch

    for _ in range(10):
        call()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return float(1e3 * start.elapsed_time(end) / calls)


def installed(folder: Path) -> Iterator[str]:
    """The self-test of a bundle on this GPU, in the words of `bundle install`."""
    command = [sys.executable, "-m", "tuner.bundle", "install", str(folder / ONE)]
    path = os.pathsep.join([str(Path(tuner.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, "--trust", "unsigned"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    yield from done.stdout.splitlines()


ON_ALL = (values, extremes)
ON_ONE = (zero_copy, streams, threads, graphs, dlpack, refusals, overhead)


def checks(folder: Path, only: list[str]) -> Iterator[tuple[str, Callable[[], Iterator[str]]]]:
    """The checks whose names hold one of these; each yields what it found and raises where it is wrong."""
    for problem in PROBLEMS + ROUTING:
        which = (*ON_ALL, *ON_ONE) if problem is PROBLEMS[1] else ON_ALL
        named = {f"{problem.name} {check.__name__}": check for check in which}
        wanted = {name: check for name, check in named.items() if any(o in name for o in only)}
        if not wanted:
            continue
        ready = Ready(folder, problem, on_device=problem is GRANITE)
        for name, check in wanted.items():
            yield name, lambda c=check, r=ready: c(r)
        print(
            f"{problem.describe()}: loaded in {ready.load_s:.2f} s: {ready.layer.stats().to_json()}"
        )
    if any(o in "bundle install" for o in only):
        yield "bundle install", lambda: installed(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--build", action="store_true", help="make the bundles in FOLDER")
    parser.add_argument(
        "--only", default="", help="checks whose names hold one of these, with commas"
    )
    parser.add_argument(
        "--db", type=Path, help="winners to build with; the user's own unless given"
    )
    options = parser.parse_args()
    if options.build:
        build(options.folder, options.db)
        return 0
    import torch

    start, failed = time.perf_counter(), 0
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name(0)}", flush=True)
    for name, check in checks(options.folder, options.only.split(",")):
        try:
            for line in check():
                print(f"[{time.perf_counter() - start:5.1f} s] {name}: {line}", flush=True)
        except Exception as error:  # one wrong check must not hide the others
            failed += 1
            print(f"FAILED {name}: {type(error).__name__}: {error}", flush=True)
    print(f"{failed} checks failed, {time.perf_counter() - start:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
