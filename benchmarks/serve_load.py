"""How many questions a second ``moetune serve`` answers, and how late the slowest come.

The service runs on one core, the questions come from this process on another, over loopback, on 64
connections. The databases are made up (a time for each of so many workloads; nothing is measured in
them): what counts is how many rows there are. `hot` asks 1,000 different questions again and again,
`new` never asks the same twice.

    python benchmarks/serve_load.py --rows 100,10000,100000
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.problem import Problem
from tuner.space.variant import default_variant
from tuner.store.database import Database
from tuner.store.records import MeasurementRow, TrialRow, WinnerRow
from tuner.target import detect

# Workloads of each made-up problem.
TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
LOADS = ("uniform", "zipf:1.2")
QUESTIONS = 1000
START_S = 30.0


@dataclass(frozen=True)
class Row:
    """One measurement: ms of latency, answers a second, answers that were not 200."""

    rows: int
    questions: str
    connections: int
    per_s: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    failures: int


def main() -> None:
    """Measure each size and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="100,10000,100000", help="winners in the database")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = [
        row
        for count in map(int, options.rows.split(","))
        for row in measure(count, options.connections, options.seconds)
    ]
    if options.json:
        print(json.dumps([vars(row) for row in found], indent=2))
        return
    print(f"{'rows':>8} {'asked':6} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8} {'most':>8} failures")
    for row in found:
        print(
            f"{row.rows:8} {row.questions:6} {row.per_s:8.0f} {row.p50_ms:8.2f} {row.p99_ms:8.2f} "
            f"{row.most_ms:8.2f} {row.failures}"
        )


def measure(rows: int, connections: int, seconds: float) -> Iterator[Row]:
    """A service on a database of so many winners, asked hot and then new questions."""
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="moetune-") as folder:
        path = Path(folder) / "tuning.sqlite3"
        problems = fill(path, rows)
        service = subprocess.Popen(
            [sys.executable, "-m", "tuner", "serve", "--db", path, "--port", "0", "--reads", "1e9"],
            stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]),
        )  # fmt: skip
        try:
            assert service.stderr is not None
            port = int(urllib.parse.urlsplit(service.stderr.readline().split()[0]).port or 0)
            os.sched_setaffinity(0, cores[1:] or cores)
            questions = some(problems)
            asyncio.run(ask(port, iter(questions), 1, START_S))  # each once: hot ones are kept
            for kind, made in (("hot", again(questions)), ("new", new(problems))):
                asyncio.run(ask(port, made, connections, seconds / 4))  # settles
                started = time.perf_counter()
                times, failures = asyncio.run(ask(port, made, connections, seconds))
                took = time.perf_counter() - started
                cuts = statistics.quantiles(times, n=100)
                yield Row(
                    rows, kind, connections, len(times) / took, cuts[49], cuts[98], max(times), failures
                )  # fmt: skip
        finally:
            service.terminate()
            service.wait()
            os.sched_setaffinity(0, cores)


def fill(path: Path, rows: int) -> list[str]:
    """A database with so many winners; the ids of its problems."""
    target, ids, left = detect(), [], rows
    environment = {"toolchain": "none: made up", "cpu": target.name, "kernel": "none"}
    with Database(path) as db, db.transaction():
        target_id, number = db.add_target(target), 0
        while left:
            number += 1
            problem = Problem(hidden=64 * number, expert_dim=64, num_experts=8, top_k=2)
            variant = default_variant(problem, target)
            ids.append(db.add_problem(problem))
            db.add_variant(variant.id, variant.template, variant.name, variant.config, variant.pack)
            for load, tokens in [(load, t) for load in LOADS for t in TOKENS][:left]:
                where = {
                    "target_id": target_id,
                    "problem_id": ids[-1],
                    "tokens": tokens,
                    "load": load,
                }
                trial = db.record_trial(
                    TrialRow(variant_id=variant.id, status="ok", environment=environment, **where),
                    MeasurementRow(median_ns=1e6, low_ns=1e6, high_ns=1e6, kind="final"),
                )
                db.record_winner(WinnerRow(trial_id=trial, median_ns=1e6, is_default=True, **where))
                left -= 1
    return ids


def some(problems: Sequence[str]) -> list[bytes]:
    """So many questions."""
    rng = random.Random(0)
    return [_request(rng.choice(problems), rng.choice(TOKENS)) for _ in range(QUESTIONS)]


def again(questions: Sequence[bytes]) -> Iterator[bytes]:
    """The same questions in random order, for ever."""
    rng = random.Random(0)
    while True:
        yield rng.choice(questions)


def new(problems: Sequence[str]) -> Iterator[bytes]:
    """Always another load, for a number of tokens of which every second one is near a winner's."""
    rng, number = random.Random(0), 0
    most = 2 * 8 * TOKENS[-1]
    while True:
        number += 1
        load = f"zipf:{number / 1e6:f}"
        yield _request(rng.choice(problems), rng.randrange(1, most), f"&load={load}")


def _request(problem: str, tokens: int, more: str = "") -> bytes:
    path = f"/v1/best?model={problem}&tokens={tokens}{more}"
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def ask(
    port: int, questions: Iterator[bytes], connections: int, seconds: float
) -> tuple[list[float], int]:
    """Milliseconds of each answer, and how many were not 200."""
    end = time.perf_counter() + seconds
    asked = [_Connection(questions, end) for _ in range(connections)]
    loop = asyncio.get_running_loop()
    for connection in asked:
        await loop.create_connection(lambda c=connection: c, "127.0.0.1", port)
    await asyncio.gather(*(connection.done for connection in asked))
    times = [ms for connection in asked for ms in connection.times]
    return times, sum(connection.failures for connection in asked)


class _Connection(asyncio.Protocol):
    """Asks the next question when the last one was answered."""

    def __init__(self, questions: Iterator[bytes], end: float) -> None:
        self._questions, self._end = questions, end
        self._buffer, self._sent = b"", 0.0
        self.times: list[float] = []
        self.failures = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        question = next(self._questions, b"")
        if not question:
            self._transport.close()
            return
        self._sent = time.perf_counter()
        self._transport.write(question)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        self.times.append((now - self._sent) * 1e3)
        self.failures += not head.startswith(b"HTTP/1.1 200")
        self._buffer = b""
        if now < self._end:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.failures += error is not None
        if not self.done.done():
            self.done.set_result(None)


if __name__ == "__main__":
    main()
