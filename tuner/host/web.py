"""Web: one question to an HTTP server within one deadline, whatever the server does."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

_READ_BYTES = 64 << 10


class NoAnswer(Exception):
    """The server cannot be reached, is too slow, or says what is no HTTP."""


@dataclass(frozen=True)
class Answer:
    """What a server said. ``moved`` is where it sends us, which is never followed."""

    status: int
    reason: str
    body: bytes
    moved: str = ""


def url_fault(url: str) -> str:
    """What is wrong with the address of a service; empty where nothing is."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        return f"is no address ({error})"
    if parts.scheme not in ("http", "https"):
        return "must start with http:// or https://"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "holds a space, a control character, or one beyond ASCII"
    if not host or port == 0:
        return "names no host" if not host else "names port 0, where nothing listens"
    if parts.username is not None or parts.query or parts.fragment:
        return "must end with the path, without user, query or fragment"
    return ""


def ask(request: urllib.request.Request, timeout_s: float, most_bytes: int) -> Answer:
    """Send a request, and receive the answer, all within ``timeout_s``, names and handshakes, too.

    It runs in a thread, because the look-up of a name and a handshake know no deadline, and a socket only
    one for each read.

    Raises:
        NoAnswer: there is none in time, or it is larger than ``most_bytes``.
    """
    asking = _Asking(request, timeout_s, most_bytes)
    asking.start()
    asking.join(timeout_s)
    if asking.is_alive():
        asking.give_up()
        raise NoAnswer(f"no whole answer in {timeout_s:g} s")
    if asking.answer is None:
        raise NoAnswer(asking.fault)
    return asking.answer


class _Asking(threading.Thread):
    def __init__(self, request: urllib.request.Request, timeout_s: float, most_bytes: int) -> None:
        super().__init__(name="moetune-ask", daemon=True)
        self._request, self._timeout_s, self._most_bytes = request, timeout_s, most_bytes
        self._deadline = time.monotonic() + timeout_s
        self._sockets: list[socket.socket] = []
        self._given_up = False
        self.answer: Answer | None = None
        self.fault = "the thread that asks ended"

    def run(self) -> None:
        opener = urllib.request.build_opener(_Stay, _Http(self.connected), _Https(self.connected))
        try:
            with opener.open(self._request, timeout=self._timeout_s) as response:
                self.answer = self._read(response)
        except urllib.error.HTTPError as error:
            self.answer = self._refused(error)
        # ValueError: of http.client, for lengths and names that are none.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.fault = _told(error)

    def connected(self, one: socket.socket) -> None:
        """Remember a socket, so that it can be closed at the deadline."""
        self._sockets.append(one)
        if self._given_up:
            self.give_up()

    def give_up(self) -> None:
        """End the thread soon: nothing comes any more."""
        self._given_up = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)

    def _read(self, response: Any) -> Answer:
        body = bytearray()
        while part := response.read(_READ_BYTES):
            body += part
            if len(body) > self._most_bytes:
                raise ValueError(f"an answer of more than {self._most_bytes} bytes")
            if time.monotonic() > self._deadline:
                raise TimeoutError(f"no whole answer in {self._timeout_s:g} s")
        if (
            response.length
        ):  # of a length that was told; http.client says nothing when it reads in parts
            raise http.client.IncompleteRead(bytes(body), response.length)
        return Answer(response.status, response.reason, bytes(body))

    def _refused(self, error: urllib.error.HTTPError) -> Answer:
        body, moved = b"", error.headers.get("Location", "") if 300 <= error.code < 400 else ""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError), error:
            body = self._read(error).body
        return Answer(error.code, str(error.reason), body, moved)


def _told(error: Exception) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, http.client.HTTPException):
        return f"what it says is no HTTP: {type(reason).__name__} {str(reason)[:200]!a}"
    return str(reason)[:200] or type(reason).__name__


class _Stay(urllib.request.HTTPRedirectHandler):
    """No redirect is followed: it would carry a token elsewhere, or make a GET of a POST."""

    def redirect_request(self, *told: Any) -> None:
        return None


class _Http(urllib.request.HTTPHandler):
    def __init__(self, connected: Any) -> None:
        super().__init__()
        self._class = _watched(http.client.HTTPConnection, connected)

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._class, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, connected: Any) -> None:
        super().__init__()
        self._class = _watched(http.client.HTTPSConnection, connected)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._class, req)


def _watched(kind: Any, connected: Any) -> Any:
    """A class of connections that tell their socket."""

    class Watched(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            connected(self.sock)

    return Watched
