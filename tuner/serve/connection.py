"""Connection: what a client may send, how fast, and how many of them there may be.

httptools reads and uvicorn answers. By itself uvicorn ends only connections that wait for another request;
heads have no limit there, in size or in time.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tuner.serve.problem_document import Refusal

_LOG = logging.getLogger(__name__)

# Of a head, and of everything else between the bytes of bodies: trailers, extensions of chunks.
MOST_HEAD_BYTES = 64 << 10
MOST_HEADERS = 100
# Requests that are sent before the answers of earlier ones are there.
MOST_PIPELINED = 32
MOST_CONNECTIONS = 1024
# What is read at once; the parser joins the pieces of one header, which costs the square of their number.
_PIECE_BYTES = 16 << 10
_LOG_EVERY_S = 10.0
_INVALID = "Invalid HTTP request received."  # what uvicorn logs of each


def most_connections() -> int:
    """As many as half of the process's descriptors; the other half is for files, and for who comes next."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if soft < 0 else max(1, min(MOST_CONNECTIONS, soft // 2))


class _Seldom:
    """What anybody can cause must not fill the log: it is told every ten seconds, with how often it was."""

    def __init__(self) -> None:
        self._count, self._told = 0, -_LOG_EVERY_S

    def due(self) -> int:
        """Counts one more; the number since the last that was told if it is time to tell, else 0."""
        self._count += 1
        now = time.monotonic()
        if now - self._told < _LOG_EVERY_S:
            return 0
        count, self._told, self._count = self._count, now, 0
        return count


class SeldomInvalid(logging.Filter):
    """Lets one line on requests that are none of HTTP through every ten seconds, with their number."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = _Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line is told."""
        if record.msg != _INVALID:
            return True
        count = self._seldom.due()
        record.msg, record.args = f"{_INVALID} Connections closed for this: {count}", ()
        return count > 0


class Connections:
    """Those that are open; where one too many comes, the one that has waited longest makes room."""

    def __init__(self, most: int, head_s: float, body_s: float, idle_s: float) -> None:
        self.most, self.head_s, self.body_s, self.idle_s = most, head_s, body_s, idle_s
        self._open = 0
        self._waiting: OrderedDict[Connection, None] = OrderedDict()
        self._closed = _Seldom()

    def opened(self) -> bool:
        """Count one more; False where there is no room for it, and none that waits."""
        self._open += 1
        if self._open <= self.most:
            return True
        self._tell()
        if not self._waiting:
            return False
        longest, _ = self._waiting.popitem(last=False)
        longest.transport.abort()
        return True

    def lost(self, connection: Connection) -> None:
        """Forget one that is closed."""
        self._open -= 1
        self.busy(connection)

    def waits(self, connection: Connection) -> None:
        """Nothing of a request is there that could be answered."""
        self._waiting[connection] = None
        self._waiting.move_to_end(connection)

    def busy(self, connection: Connection) -> None:
        """A request is answered."""
        self._waiting.pop(connection, None)

    def _tell(self) -> None:
        if closed := self._closed.due():
            _LOG.warning(
                "more than %d connections are open: %d were closed that sent no request for longest; "
                "raise the limit of open files (ulimit -n), or look who opens them",
                self.most,
                closed,
            )


class Connection(HttpToolsProtocol):
    """One connection: each part of a request has a size, a number and a time."""

    def __init__(self, connections: Connections, **told: Any) -> None:
        super().__init__(**told)
        self._connections = connections
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._overhead_bytes = self._headers_seen = 0
        self._in_message = self._in_body = False
        self._refusal: Refusal | None = None
        self._running: Any = None

    # What the transport says.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if not self._connections.opened():
            transport.abort()
            return
        self._connections.waits(self)
        self._within(self._connections.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._within(None)
        self.resume_writing()
        self._unset_keepalive_if_required()
        self._connections.lost(self)
        self._leave()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self._connections.body_s, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        for first in range(0, len(data), _PIECE_BYTES):
            if self.transport.is_closing():
                return
            piece = data[first : first + _PIECE_BYTES]
            self._overhead_bytes += len(piece)
            super().data_received(piece)
            if self._overhead_bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._refusal = Refusal(
                    431, f"the head is larger than {MOST_HEAD_BYTES} bytes; send less"
                )
                self.send_400_response("")

    # What the parser says.

    def on_message_begin(self) -> None:
        self._in_message, self._in_body = True, False
        self._overhead_bytes = self._headers_seen = 0
        self._within(self._connections.head_s)
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_seen += 1
        if self._headers_seen > MOST_HEADERS:
            self._refusal = Refusal(431, f"more than {MOST_HEADERS} headers; send fewer")
            raise self._refusal
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_body, self._overhead_bytes = True, 0
        self._within(self._connections.body_s)
        if len(self.pipeline) >= MOST_PIPELINED:
            self._refusal = Refusal(429, "too many requests before their answers; wait for some")
            raise self._refusal
        self._connections.busy(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = self._in_body = False
        self._overhead_bytes = 0
        self._within(None if self._answering() else self._connections.idle_s)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            self._within(self._connections.body_s)
        elif not self._answering():
            self._connections.waits(self)
            if not self._in_message:
                self._within(self._connections.idle_s)

    # How a connection ends.

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong as a problem document, unless another answer is under way."""
        refusal = self._refusal or Refusal(400, "this is no request of HTTP/1.1; see RFC 9112")
        if not self._answering():
            response = refusal.response()
            head = f"HTTP/1.1 {refusal.status} {refusal.title}\r\n".encode()
            lines = [name + b": " + value for name, value in response.raw_headers]
            lines += [b"connection: close", b"", bytes(response.body)]
            self.transport.write(head + b"\r\n".join(lines))
        self._end()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tell the request that is answered; uvicorn tells the last that came, which may still wait."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def _unsupported_upgrade_warning(self) -> None:
        """Anybody may ask for an upgrade; it is answered as if it were not asked for."""

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _within(self, seconds: float | None) -> None:
        """What comes next has so long; None: it is our turn."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.transport.is_closing():  # a client that takes no answer
            self.transport.abort()
        elif self._in_message and not self._in_body:
            self._refusal = Refusal(
                408, f"the head took longer than {self._connections.head_s:g} s; send it again"
            )
            self.send_400_response("")
        else:
            self._end()

    def _end(self) -> None:
        self._leave()
        self.transport.close()
        self._within(self._connections.body_s)
