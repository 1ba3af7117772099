"""A service that is killed and started again while others read and post: what it acknowledged is there.

`MOETUNE_KILL_S` is how long, 20 s unless given; 1200 is the twenty minutes of the goal, with a kill
every minute.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import lines
from tests.services import GRANITE
from tuner.database import Database
from tuner.tokens import RESULTS, Tokens, path_beside

pytestmark = pytest.mark.slow
WHOLE_S = float(os.environ.get("MOETUNE_KILL_S", "20"))
KILLS = 20 if WHOLE_S >= 1200 else 4
START_S = 30.0


class Service:
    """`moetune serve` in a process on one port, killed by SIGKILL."""

    def __init__(self, db: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._line = [sys.executable, "-m", "tuner", "serve", "--db", db, "--port", str(self.port)]
        self._line += ["--writes", "1e6", "--reads", "1e6"]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._line, stderr=subprocess.PIPE)
        assert self._process.stderr is not None
        assert self._process.stderr.readline()  # it listens

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


def posts() -> Iterator[tuple[int, bytes]]:
    """A winner of another workload each time."""
    number = 0
    while True:
        number += 1
        row = lines.won()
        row["tokens"] = number
        yield number, lines.text(row)


def test_no_acknowledged_result_is_lost(database: Path) -> None:
    Database(database).close()
    token = Tokens(path_beside(database)).create("test", [RESULTS])
    service = Service(database)
    base = f"http://127.0.0.1:{service.port}"
    end = time.monotonic() + WHOLE_S
    acknowledged: list[int] = []
    answers: dict[int, int] = {}
    headers = {"authorization": f"Bearer {token}", "content-type": "application/x-ndjson"}

    def ask(client: httpx.Client, *arguments: Any, **more: Any) -> int:
        try:
            status = client.request(*arguments, **more).status_code
        except httpx.TransportError:  # killed, or not there yet
            time.sleep(0.05)
            return 0
        answers[status] = answers.get(status, 0) + 1
        return status

    def write() -> None:
        with httpx.Client(base_url=base, timeout=START_S) as client:
            for number, body in posts():
                if time.monotonic() > end:
                    return
                if ask(client, "POST", "/v1/results", content=body, headers=headers) == 200:
                    acknowledged.append(number)

    def read() -> None:
        rng = random.Random(0)
        with httpx.Client(base_url=base, timeout=START_S) as client:
            while time.monotonic() < end:
                path = rng.choice(["/healthz", "/v1/trials?limit=5", "/", "/v1/problems"])
                ask(client, "GET", path)
                ask(client, "GET", f"/v1/best?model={GRANITE}&tokens={rng.randrange(1, 99)}")

    threads = [threading.Thread(target=work) for work in (write, read)]
    for thread in threads:
        thread.start()
    for _ in range(KILLS):
        time.sleep(WHOLE_S / (KILLS + 1))
        service.kill()
        service.start()
    for thread in threads:
        thread.join()
    service.kill()
    with Database(database, read_only=True) as db:
        there = {row["tokens"] for row in db.best()}
    assert len(acknowledged) > 10 * KILLS
    assert set(acknowledged) <= there
    assert set(answers) == {200}
