"""A client that sends too much, too slowly or too often, or nothing at all, and the others meanwhile."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from tests.services import client, served
from tuner.serve import connection, server
from tuner.serve.settings import Settings

__all__ = ["served"]

HOST = b"Host: a\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
POST = b"POST /v1/results HTTP/1.1\r\n" + HOST


@contextlib.contextmanager
def service(db: Path, **limits: Any) -> Iterator[int]:
    """The port of a server in a thread."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        running = uvicorn.Server(server.configured(Settings(db, **limits)))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        running.should_exit = True
        thread.join()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def send(port: int, *parts: bytes, pause_s: float = 0) -> bytes:
    """All that comes back until the server closes the connection."""
    with connect(port) as one:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                one.sendall(part)
                time.sleep(pause_s)
        return rest(one)


def rest(one: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := one.recv(65536):
            got += data
    return got


def status(answer: bytes) -> str:
    return answer.partition(b"\r\n")[0].decode()


@pytest.mark.parametrize(
    "parts",
    [
        [GET + b"X: ", *[b"a" * 100_000] * 3],
        [b"GET /" + b"a" * 100_000],
        [GET + b"a" * 100_000],
        [GET + b"X: a\r\n" * 200 + b"\r\n"],
        [POST + b"Transfer-Encoding: chunked\r\n\r\n1;x=" + b"a" * 200_000],
    ],
    ids=["value", "path", "name", "number", "extension"],
)
def test_what_is_no_body_has_an_end(served: Path, parts: list[bytes]) -> None:
    with service(served) as port:
        answer = send(port, *parts)
        # What is still on its way when the server closes may take the answer with it (RFC 9112, 9.6).
        assert status(answer) in ("HTTP/1.1 431 Request Header Fields Too Large", "")
        assert status(send(port, GET + b"Connection: close\r\n\r\n")) == "HTTP/1.1 200 OK"


def test_what_is_no_request_gets_a_problem_document(served: Path) -> None:
    with service(served) as port:
        answer = send(port, b"no request\r\n\r\n")
    assert status(answer) == "HTTP/1.1 400 Bad Request"
    assert b"application/problem+json" in answer


def test_a_slow_head_ends(served: Path) -> None:
    with service(served, head_s=0.5) as port:
        start = time.monotonic()
        assert status(send(port, *[GET, b"a", b"b", b"c", b"d"], pause_s=0.2)) == (
            "HTTP/1.1 408 Request Timeout"
        )
        assert send(port) == b""
        assert time.monotonic() - start < 5


def test_blank_lines_do_not_keep_a_connection(served: Path) -> None:
    with service(served, head_s=0.5) as port:
        assert send(port, *[b"\r\n"] * 6, pause_s=0.2) == b""


def test_a_slow_body_ends(served: Path) -> None:
    with service(served, body_s=0.5) as port:
        body = b"Content-Length: 9\r\n\r\n"
        assert status(send(port, POST + body, *[b"\n"] * 4, pause_s=0.2)) == (
            "HTTP/1.1 408 Request Timeout"
        )


def test_slow_bodies_of_one_address_leave_room(served: Path) -> None:
    with service(served, most_bodies_of_one=2) as port, contextlib.ExitStack() as held:
        for _ in range(2):
            slow = held.enter_context(connect(port))
            slow.sendall(POST + b"Content-Length: 9\r\n\r\n")
        time.sleep(0.3)
        more = send(port, POST + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        assert status(more) == "HTTP/1.1 429 Too Many Requests"
        assert status(send(port, GET + b"Connection: close\r\n\r\n")) == "HTTP/1.1 200 OK"


def test_idle_connections_do_not_starve_others(
    served: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 50)
    with (
        caplog.at_level(logging.WARNING),
        service(served) as port,
        contextlib.ExitStack() as held,
    ):
        for _ in range(200):
            held.enter_context(connect(port))
        assert status(send(port, GET + b"Connection: close\r\n\r\n")) == "HTTP/1.1 200 OK"
    told = [row.message for row in caplog.records if row.name == connection.__name__]
    assert len(told) == 1
    assert "more than 50 connections are open" in told[0]


def test_a_connection_is_kept_for_more_requests(served: Path) -> None:
    with service(served) as port:
        answer = send(port, GET + b"\r\n" + GET + b"\r\n", GET + b"Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_a_client_that_leaves_is_no_fault(served: Path, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    page = b"GET /v1/best?model=none HTTP/1.1\r\n" + HOST + b"\r\n"
    with caplog.at_level(logging.WARNING), service(served) as port:
        for _ in range(20):
            with connect(port) as one:
                one.sendall(page * 9 + b"no request\r\n\r\n")
        with connect(port) as one:
            one.sendall(upgrade)
            assert status(one.recv(4096)) == "HTTP/1.1 200 OK"
    assert len(caplog.records) <= 1
    assert all("Invalid HTTP request received" in row.message for row in caplog.records)


def test_requests_that_are_none_are_told_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(connection.time, "monotonic", lambda: now)
    seldom = connection.SeldomInvalid()
    rows = [line("Invalid HTTP request received.") for _ in range(8)]
    assert [seldom.filter(row) for row in rows[:7]] == [True] + [False] * 6
    now += 10
    assert seldom.filter(rows[7])
    assert rows[7].getMessage().endswith(": 7")
    other = line("Exception in ASGI application\n")
    assert seldom.filter(other)
    assert other.getMessage() == "Exception in ASGI application\n"


def line(message: str) -> logging.LogRecord:
    return logging.LogRecord("uvicorn.error", logging.WARNING, __file__, 1, message, (), None)


@pytest.mark.parametrize("hosts", [b"", HOST * 2])
def test_a_request_has_one_host(served: Path, hosts: bytes) -> None:
    with service(served) as port:
        line = b"GET /healthz HTTP/1.1\r\n" + hosts
        answer = send(port, line + b"Connection: close\r\n\r\n")
    assert status(answer) == "HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v1/problems", "/openapi.json"])
def test_head_is_get_without_the_body(served: Path, path: str) -> None:
    asked = client(served)
    got, head = asked.get(path), asked.head(path)
    assert (got.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
