"""Answers that are kept: a question that was answered costs nothing again until the database changes.

It stands before the application and sends the very bytes that the application made, for reading
requests whose answer depends on path, query and database alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuner.errors import DatabaseError
from tuner.serve.metrics import Metrics
from tuner.serve.store import Store, Version

MOST_ANSWERS = 20_000
MOST_BYTES = 128 << 20


@dataclass(frozen=True)
class _Kept:
    start: Message
    body: Message
    route: str
    size: int


class KeptAnswers:
    """ASGI: answers from memory, else asks ``app`` and keeps what it says if the status is 200.

    ``keeps`` says of a path whether its answers may be kept.
    """

    def __init__(
        self, app: ASGIApp, store: Store, metrics: Metrics, keeps: Callable[[str], bool]
    ) -> None:
        self._app, self._store, self._metrics, self._keeps = app, store, metrics, keeps
        self._version: Version = ()
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not self._keeps(scope["path"]):
            await self._app(scope, receive, send)
            return
        key = (scope["path"], scope["query_string"])
        version = self._current()
        kept = self._kept.get(key) if version else None
        if kept is None:
            await self._ask(key, version, scope, receive, send)
            return
        self._kept.move_to_end(key)
        self._metrics.kept()
        scope["moetune.route"] = kept.route
        await send(kept.start)
        await send(kept.body)

    def _current(self) -> Version:
        """The version of the database, after what an older one answered is gone; empty if it is away."""
        try:
            version = self._store.version()
        except DatabaseError:  # the application says it
            return ()
        if version != self._version:
            self._version, self._bytes = version, 0
            self._kept.clear()
        return version

    async def _ask(
        self, key: tuple[str, bytes], version: Version, scope: Scope, receive: Receive, send: Send
    ) -> None:
        messages: list[Message] = []

        async def listen(message: Message) -> None:
            messages.append(message)
            await send(message)

        await self._app(scope, receive, listen)
        whole = len(messages) == 2 and not messages[1].get("more_body")
        if whole and messages[0]["status"] == 200 and version and version == self._current():
            self._keep(key, getattr(scope.get("route"), "path", key[0]), *messages)

    def _keep(self, key: tuple[str, bytes], route: str, start: Message, body: Message) -> None:
        size = len(body["body"]) + len(key[0]) + len(key[1])
        self._kept[key] = _Kept(start, body, route, size)
        self._bytes += size
        while len(self._kept) > MOST_ANSWERS or self._bytes > MOST_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.size
