"""A service that is killed and started again while others read and post: what it acknowledged is there.

`MOETUNE_KILL_S` is how long, 20 s unless given; 1200 is the twenty minutes of the goal, with a kill
every minute. `MOETUNE_KILL_PER_S` is how many requests each of the two clients makes in a second; as many as it
can unless given.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import lines
from tests.bundles import bundle
from tests.services import GRANITE
from tuner.bundle import shelf, signing
from tuner.bundle.manifest import Manifest
from tuner.bundle.reader import read_bundle
from tuner.serve.routes.bundles import MEDIA_TYPE
from tuner.serve.routes.results import JSON_LINES
from tuner.serve.tokens import SCOPES, Tokens, path_beside
from tuner.store.database import Database

pytestmark = pytest.mark.slow
WHOLE_S = float(os.environ.get("MOETUNE_KILL_S", "20"))
PAUSE_S = 1 / float(os.environ.get("MOETUNE_KILL_PER_S", "inf"))
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


def posts(folder: Path, key: Path) -> Iterator[tuple[int | str, str, bytes]]:
    """A winner of another workload each time, every tenth time another bundle: which, its path, its body."""
    for number in itertools.count(1):
        if number % 10:
            row = lines.won()
            row["tokens"] = number
            yield number, "/v1/results", lines.text(row)
        else:
            path = bundle(folder / "posted.moe", key=key, change=made_by(f"Mojo {number}"))
            data = path.read_bytes()
            yield hashlib.sha256(data).hexdigest(), "/v1/bundles", data


def made_by(toolchain: str) -> Callable[[Manifest], Manifest]:
    return lambda manifest: dataclasses.replace(manifest, toolchain=toolchain)


def test_nothing_acknowledged_is_lost(database: Path, tmp_path: Path) -> None:
    Database(database).close()
    token = Tokens(path_beside(database)).create("test", SCOPES)
    key = tmp_path / "key"
    signing.generate(key)
    signing.trust(tmp_path / "key.pub")
    service = Service(database)
    base = f"http://127.0.0.1:{service.port}"
    end = time.monotonic() + WHOLE_S
    acknowledged: list[int | str] = []
    answers: dict[int, int] = {}
    types = {"/v1/results": JSON_LINES, "/v1/bundles": MEDIA_TYPE}

    def ask(client: httpx.Client, *arguments: Any, **more: Any) -> int:
        time.sleep(PAUSE_S)
        try:
            status = client.request(*arguments, **more).status_code
        except httpx.TransportError:  # killed, or not there yet
            time.sleep(0.05)
            return 0
        answers[status] = answers.get(status, 0) + 1
        return status

    def write() -> None:
        with httpx.Client(base_url=base, timeout=START_S) as client:
            for which, path, body in posts(tmp_path, key):
                if time.monotonic() > end:
                    return
                headers = {"authorization": f"Bearer {token}", "content-type": types[path]}
                if ask(client, "POST", path, content=body, headers=headers) in (200, 201):
                    acknowledged.append(which)

    def read() -> None:
        rng = random.Random(0)
        with httpx.Client(base_url=base, timeout=START_S) as client:
            while time.monotonic() < end:
                path = rng.choice(["/healthz", "/v1/trials?limit=5", "/", "/v1/bundles"])
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
        there: set[int | str] = {row["tokens"] for row in db.best()}
    kept = shelf.Shelf(shelf.path_beside(database))
    there |= {read_bundle(kept.path(row.id)).sha256 for row in kept.page("", len(acknowledged) + 1)}
    told = Counter(type(which).__name__ for which in acknowledged)
    print(f"{KILLS} kills; acknowledged {dict(told)}; answers {answers}")
    assert min(told["int"], 10 * told["str"]) > 10 * KILLS
    assert set(acknowledged) <= there
    assert set(answers) == {200, 201}
