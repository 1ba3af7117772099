"""The client before servers that are none of ours: an error of the project, or the kept answer, in time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tuner
from tests import lines
from tests.damage import as_bytes, damaged
from tests.properties import tried
from tests.services import GRANITE
from tuner.client import _selection
from tuner.errors import ServiceError, UsageError
from tuner.host.terminal import one_line
from tuner.target import Target

PROBLEM = tuner.Problem.preset(GRANITE)
TARGET = Target.from_key(lines.stored()[0]["target"]["key"])
OK = b"HTTP/1.1 200 OK\r\n"
Heard = list[bytes]


@contextlib.contextmanager
def stranger(*parts: bytes, pause_s: float = 0) -> Iterator[tuple[str, Heard]]:
    """A server that hears a request, says these bytes to every connection, and closes it."""
    heard: Heard = []
    over = threading.Event()

    def answer(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            heard.append(one.recv(65536))
            for part in parts:
                one.sendall(part)
                if over.wait(pause_s):
                    return

    def listen() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listening.accept()[0],)).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", heard
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


ODD = {
    "status": b"what?\r\n\r\n",
    "status number": b"HTTP/1.1 -7 no\r\n\r\n",
    "nothing": b"",
    "chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}",
    "chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
    "cut": OK + b"Content-Length: 99\r\n\r\n{}",
    "length": OK + b"Content-Length: -1\r\n\r\n{",
    "long header": OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n{}",
    "many headers": OK + b"X: a\r\n" * 2000 + b"\r\n{}",
    "deep": OK + b"\r\n" + b'{"a":' + b"[" * 100_000,
    "twice": OK + b"\r\n" + b'{"tokens":1,"tokens":2}',
    "number": OK + b"\r\n" + b'{"distance":' + b"9" * 5000 + b"}",
    "infinite": OK + b"\r\n" + b'{"distance":1e999}',
    "bytes": OK + b"\r\n" + b'{"detail":"\xff"}',
    "large": OK + b"\r\n" + b'"' + b"a" * 2_000_000 + b'"',
    "target": OK + b"\r\n" + b'{"distance":0,"target":7}',
    "field": OK + b"\r\n" + b'{"distance":[],"target":{}}',
    "refusal": b"HTTP/1.1 404 \x1b[31m\r\nContent-Length: 9\r\n\r\n[",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 9,
}


@pytest.mark.parametrize("told", ODD.values(), ids=ODD)
def test_an_odd_server_is_an_error_of_the_service(told: bytes, tmp_path: Path) -> None:
    with stranger(told) as (url, _):
        asked = tuner.Client(url, cache=tmp_path, timeout_s=5, token="t")
        with pytest.raises(ServiceError) as first:
            asked.best_config(PROBLEM, 16, target=TARGET)
        with pytest.raises(ServiceError) as second:
            asked.send(b"{}")
    assert "\x1b" not in f"{first.value}{second.value}"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(code: int, tmp_path: Path) -> None:
    with stranger(OK + b"\r\n{}") as (other, heard):
        moved = f"HTTP/1.1 {code} Moved\r\nLocation: {other}/x\r\nContent-Length: 0\r\n\r\n"
        with stranger(moved.encode()) as (url, _):
            asked = tuner.Client(url, cache=tmp_path, token="secret")
            asks: list[Callable[[], object]] = [
                lambda: asked.send(b"{}"),
                lambda: asked.best_config(PROBLEM, 16, target=TARGET),
            ]
            for ask in asks:
                with pytest.raises(ServiceError, match=f"it is at {other}/x, which is not foll"):
                    ask()
        assert heard == []


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX: ", OK + b"\r\n"])
def test_drops_do_not_outlast_the_deadline(start: bytes, tmp_path: Path) -> None:
    with stranger(start, *[b"H"] * 100, pause_s=0.1) as (url, _):
        began = time.monotonic()
        with pytest.raises(ServiceError, match=r"no whole answer in 0\.5 s"):
            tuner.Client(url, cache=tmp_path, timeout_s=0.5).best_config(PROBLEM, 1, target=TARGET)
        assert time.monotonic() - began < 4
        for thread in threading.enumerate():
            if thread.name == "moetune-ask":
                thread.join(2)
                assert not thread.is_alive()


def test_an_odd_server_does_not_hide_the_kept_answer(tmp_path: Path) -> None:
    local = tuner.best_config(PROBLEM, 16, target=TARGET)
    told = json.dumps(local.to_json()).encode()
    # The kept answer is that of an address: the port is the same, what listens there is another.
    with stranger(OK + b"\r\n" + told) as (url, _):
        assert tuner.Client(url, cache=tmp_path).best_config(PROBLEM, 16, target=TARGET) == local
    port = int(url.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as listening:

        def answer() -> None:
            with listening.accept()[0] as one:
                one.recv(65536)
                one.sendall(b"what?\r\n\r\n")

        threading.Thread(target=answer).start()
        kept = tuner.Client(url, cache=tmp_path).best_config(PROBLEM, 16, target=TARGET)
    assert dataclasses.replace(kept, reason=local.reason) == local
    assert "kept answer" in kept.reason


@pytest.mark.parametrize(
    "url",
    ["http://a:99999", "http://a:b", "http://[::1", "http://", "http://a:0", "http://a b", "http://a\n",
     "http://u:p@a", "http://a?x=1", "http://a#x", "http://ä", "file:///etc/hosts"],
)  # fmt: skip
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError):
        tuner.Client(url)


@pytest.mark.parametrize(
    "url", ["http://a..b", "http://127.0.0.1:1", f"http://{'a' * 300}", "http://[::1]:1"]
)
def test_an_address_where_nobody_is(url: str, tmp_path: Path) -> None:
    with pytest.raises(ServiceError):
        tuner.Client(url, cache=tmp_path, timeout_s=2).best_config(PROBLEM, 1, target=TARGET)


@pytest.mark.parametrize("token", ["secret\n", "secret x", "sécret"])
def test_a_token_that_is_none_is_not_shown(token: str) -> None:
    with pytest.raises(UsageError) as told:
        tuner.Client("http://a", token=token)
    assert "cret" not in str(told.value)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e300])
def test_a_time_that_is_none(timeout_s: float) -> None:
    with pytest.raises(UsageError):
        tuner.Client("http://a", timeout_s=timeout_s)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
NAMES = st.sampled_from([f.name for f in dataclasses.fields(tuner.Selection)])


@pytest.mark.fuzz
@tried(300)
@given(st.dictionaries(NAMES, JSON, max_size=4))
def test_a_selection_has_the_types_of_its_fields(changed: dict[str, object]) -> None:
    told = tuner.best_config(PROBLEM, 16, target=TARGET).to_json() | changed
    try:
        selection = _selection(told)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return
    assert isinstance(selection.tokens, int)
    assert isinstance(selection.reason, str)
    assert all(type(value) is int for value in selection.config.values())


HEADS = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 no", b"HTTP/1.1 302 x", b"HTTP/1.1 204", b"ICY 200"]
)
HEADERS = st.sampled_from(
    [b"Content-Length: 5", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Connection: close",
     b"Location: /x", b"Content-Encoding: gzip", b"\xff: \xfe", b"a", b" b: c"]
)  # fmt: skip
SOUND = tuner.best_config(PROBLEM, 16, target=TARGET).to_json()


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """An answer, most often nearly a right one."""
    head = [draw(HEADS | st.binary(max_size=20)), *draw(st.lists(HEADERS, max_size=3))]
    return b"\r\n".join([*head, b"", draw(damaged(SOUND).flatmap(as_bytes) | st.binary())])


@pytest.mark.fuzz
@tried(100)
@given(told=answers())
def test_any_answer_is_a_selection_or_an_error(
    told: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with stranger(told) as (url, _):
        asked = tuner.Client(url, cache=tmp_path_factory.mktemp("kept"), timeout_s=5, token="t")
        said = ""
        try:
            repr(asked.best_config(PROBLEM, 16, target=TARGET)).encode("utf-8", "strict")
        except ServiceError as error:
            said = str(error)
        assert one_line(said) == said  # nothing that a terminal obeys
        with contextlib.suppress(ServiceError):
            asked.send(b"{}")
