"""The client: the service's answer in the shape of the local one, and the kept one while it is unreachable."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

import tuner
from tests import lines
from tests.commands import Run
from tests.services import GRANITE, served
from tuner.client import _selection
from tuner.errors import ServiceError, UsageError
from tuner.serve.app import create
from tuner.serve.settings import Settings
from tuner.serve.tokens import RESULTS, Tokens, path_beside
from tuner.target import Target

__all__ = ["served"]

PROBLEM = tuner.Problem.preset(GRANITE)
TARGET = Target.from_key(lines.stored()[0]["target"]["key"])
Start = Callable[[], str]


@pytest.fixture
def service(served: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A real server in a thread: its url, and what ends it."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create(Settings(served)), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()

    def end() -> None:
        server.should_exit = True
        thread.join()
        listening.close()

    yield f"http://127.0.0.1:{listening.getsockname()[1]}", end
    end()


def test_the_answer_is_the_local_one(service: Any, served: Path, tmp_path: Path) -> None:
    asked = tuner.Client(service[0], cache=tmp_path)
    for tokens, load in ((128, "uniform"), (100, "zipf:1.20"), (10**9, "uniform")):
        local = tuner.best_config(PROBLEM, tokens, load, TARGET, served)
        assert asked.best_config(PROBLEM, tokens, load, TARGET) == local


def test_kept_answers_say_their_age_while_the_service_is_away(service: Any, tmp_path: Path) -> None:
    now = [1e9]
    url, end = service
    asked = tuner.Client(url, cache=tmp_path, timeout_s=1.0, clock=lambda: now[0])
    fresh = asked.best_config(PROBLEM, 16, target=TARGET)
    end()
    now[0] += 7200
    kept = asked.best_config(PROBLEM, 16, target=TARGET)
    assert kept == dataclasses.replace(
        fresh, reason=f"{fresh.reason} (kept answer, 2 h old: {url} cannot be reached)"
    )
    with pytest.raises(
        ServiceError, match=r"cannot be reached .*, and it never answered this before"
    ):
        asked.best_config(PROBLEM, 17, target=TARGET)


def test_a_refusal_is_told_and_never_answered_from_the_cache(service: Any, tmp_path: Path) -> None:
    asked = tuner.Client(service[0], cache=tmp_path)
    with pytest.raises(ServiceError, match="simd_width=9: must be one of"):
        asked.best_config(tuner.Problem.preset("qwen3-30b-a3b"), 1, pack="v9_p2_o0", target=TARGET)
    with pytest.raises(UsageError, match="must start with http"):
        tuner.Client("ftp://here")


def test_results_are_sent(service: Any, served: Path, tmp_path: Path) -> None:
    token = Tokens(path_beside(served)).create("lab", [RESULTS])
    asked = tuner.Client(service[0], cache=tmp_path, token=token)
    assert asked.send(lines.text(lines.faster(3.0)))["taken"] == 1
    with pytest.raises(ServiceError, match="no token, or one that is not known"):
        tuner.Client(service[0], cache=tmp_path).send("")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"variant": 1}'])
def test_another_program_on_that_port_is_told(body: bytes, tmp_path: Path) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.handle_request).start()
        with pytest.raises(ServiceError):
            tuner.Client(f"http://127.0.0.1:{server.server_port}", cache=tmp_path).best_config(
                PROBLEM, 16, target=TARGET
            )


def test_the_command_asks_a_service(service: Any, moetune: Run, served: Path) -> None:
    line = f"best {GRANITE} --tokens 16 --json"
    told = moetune(f"{line} --from {service[0]}")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out) == json.loads(moetune(line).out)
    both = moetune(f"{line} --from {service[0]} --db {served}")
    assert (both.code, "both given" in both.err) == (2, True)


def test_an_answer_of_before_says_no_source() -> None:
    told = tuner.best_config(PROBLEM.replace(hidden=64), 16, target=TARGET).to_json()
    assert _selection(told).source == "default"
    del told["source"]
    assert _selection(told).source == ""
