"""Requests of any bytes: an answer of HTTP/1.1 or none, and the service is there for the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import lines
from tests.damage import as_bytes, damaged
from tests.properties import tried
from tests.serve.test_connection import connect as connected
from tests.serve.test_connection import rest, service
from tests.services import BEST
from tuner.store.database import Database
from tuner.store.jsonl import import_best

METHODS = st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"CONNECT", b"get", b""])
PATHS = st.sampled_from(
    [b"/healthz", b"/v1/best", b"/v1/results", b"/v1/winners?limit=1", b"/v1/bundles/x", b"/metrics",
     b"*", b"http://a/healthz", b"//", b"/%00", b"/\xff"]
)  # fmt: skip
NAMES = st.sampled_from(
    [b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Range", b"Expect", b"Upgrade",
     b"Accept", b"Accept-Encoding", b"If-None-Match", b"Content-Type", b"Authorization", b" X", b""]
)  # fmt: skip
TOLD = st.sampled_from(
    [b"a", b"0", b"3", b"-1", b"18446744073709551616", b"chunked", b"chunked, gzip", b"close",
     b"keep-alive", b"bytes=0-1,5-2", b"bytes=-0", b"100-continue", b"websocket", b"text/html;q=2",
     b"application/jsonl", b"Bearer \xff", b'"x", *']
)  # fmt: skip
LINES = st.tuples(NAMES | st.binary(max_size=8), TOLD | st.binary(max_size=40)).map(
    lambda line: line[0] + b": " + line[1]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request, most often nearly a right one."""
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b""]))
    path = draw(PATHS | st.binary(max_size=20))
    head = [b" ".join([draw(METHODS | st.binary(max_size=6)), path, version])]
    if draw(st.booleans()):
        head.append(b"Host: a")
    head += draw(st.lists(LINES, max_size=5))
    body = draw(st.binary(max_size=40) | damaged(lines.won()).flatmap(as_bytes))
    if draw(st.booleans()):
        head.append(b"Content-Length: %d" % len(body))
    end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\n", b"\r"]))
    return end.join([*head, b"", body])


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("service") / "t.sqlite3"
    with Database(path) as db:
        import_best(db, BEST)
    with service(path, reads_per_s=1e6, writes_per_s=1e6, head_s=1, body_s=1) as running:
        yield running


@pytest.mark.fuzz
@tried(300)
@given(sent=st.lists(requests() | st.binary(max_size=99), min_size=1, max_size=3))
def test_any_bytes(port: int, sent: list[bytes]) -> None:
    faults = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = faults.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        with connected(port) as one:
            one.sendall(b"".join(sent))
            one.shutdown(1)  # nothing more comes
            answer = rest(one)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        assert b"HTTP/1.1 500" not in answer
        with connected(port) as one:
            one.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert rest(one).startswith(b"HTTP/1.1 200 ")
    finally:
        logging.getLogger().removeHandler(handler)
    assert [record.getMessage() for record in faults] == []
