"""Limits: how often, how long and how much, checked before the application sees a request.

Each address has two buckets of requests, one for reading and one for writing, that fill at a steady
rate. A body that is too large or too slow, and an answer that takes too long, end with a problem
document.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.serve.html import refused
from tuner.serve.metrics import Metrics
from tuner.serve.problem_document import Refusal
from tuner.serve.settings import Settings

# Addresses to remember; the one that was silent longest is forgotten, and starts with a full bucket.
MOST_ADDRESSES = 4096
BURST_S = 2.0
_BUNDLES = "/v1/bundles/"
_READING = ("GET", "HEAD", "OPTIONS")


class Rate:
    """A bucket for each address: ``per_s`` requests a second, bursts of two seconds' worth."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._most, self._clock = per_s, max(per_s * BURST_S, 1.0), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> float:
        """Take one request; returns 0, or the seconds until the next one is let through."""
        now = self._clock()
        level, then = self._buckets.get(address, (self._most, now))
        level = min(self._most, level + (now - then) * self._per_s)
        allowed = level >= 1.0
        self._buckets[address] = (level - allowed, now)
        self._buckets.move_to_end(address)
        if len(self._buckets) > MOST_ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - level) / self._per_s


class Limits:
    """ASGI: refuses what is over the limits of ``settings``, and counts every answer."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._reads = Rate(settings.reads_per_s)
        self._writes = Rate(settings.writes_per_s)
        self._open = 0
        self._bodies: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        asked = _without_head(scope)

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._limited(asked, receive, counted)
        finally:
            method = scope["method"] if scope["method"] in (*_READING, "POST") else "other"
            self._metrics.answered(_route(asked), method, status, started)

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            _check_host(scope)
            self._check_rate(scope)
            if scope["method"] not in _READING:
                receive = _replayed(await self._body_in_turn(scope, receive), receive)
            await self._answer(scope, receive, noted)
        except Refusal as refusal:
            if started:
                raise
            answer = refused(refusal, Headers(scope=scope), scope["path"])
            await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._open >= self._settings.most_open:
            raise Refusal(503, "too many requests at one time; ask again", {"Retry-After": "1"})
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    def _check_rate(self, scope: Scope) -> None:
        rate = self._reads if scope["method"] in _READING else self._writes
        wait_s = rate.take(_address(scope))
        if wait_s:
            retry = str(math.ceil(wait_s))
            message = f"too many requests from this address; ask again in {retry} s"
            raise Refusal(429, message, {"Retry-After": retry})

    async def _body_in_turn(self, scope: Scope, receive: Receive) -> bytes:
        """The body, if neither its address nor all of them send too many at this time."""
        address, later = _address(scope), {"Retry-After": "1"}
        if self._bodies[address] >= self._settings.most_bodies_of_one:
            raise Refusal(429, "too many bodies from this address at one time; send later", later)
        if self._bodies.total() >= self._settings.most_bodies:
            raise Refusal(503, "too many bodies at one time; send it later", later)
        self._bodies[address] += 1
        try:
            return await self._body(scope, receive)
        finally:
            self._bodies[address] -= 1
            if not self._bodies[address]:
                del self._bodies[address]

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, if it is small and quick enough."""
        most = self._settings.most_body_bytes
        refusal = Refusal(413, f"the body is larger than {most} bytes; send it in parts")
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > most:
                raise refusal
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self._settings.body_s):
                while more:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    more = message.get("more_body", False)
                    if size > most:
                        raise refusal
        except TimeoutError as error:
            raise Refusal(
                408, f"the body took longer than {self._settings.body_s:g} s; send it again"
            ) from error
        return b"".join(parts)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _check_host(scope: Scope) -> None:
    """RFC 9112, section 3.2: one Host, from HTTP/1.1 on."""
    hosts = sum(name == b"host" for name, _ in scope["headers"])
    if hosts != 1 and (hosts or scope.get("http_version", "1.1") != "1.0"):
        raise Refusal(400, f"the request has {hosts} Host headers; send one")


def _without_head(scope: Scope) -> Scope:
    """HEAD is GET whose body the server leaves out; only a bundle's route knows better, for its file."""
    if scope["method"] != "HEAD" or scope["path"].startswith(_BUNDLES):
        return scope
    return {**scope, "method": "GET"}


def _route(scope: Scope) -> str:
    """The route as it is declared, so that names in paths make no label of their own."""
    route = scope.get("route")
    return getattr(route, "path", None) or scope.get("moetune.route") or "none"


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, as the application would have received it."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
