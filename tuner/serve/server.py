"""The server: uvicorn in this process, on one socket. The only file that knows it."""

from __future__ import annotations

import functools
import gc
import logging
import socket
from collections.abc import Callable

import uvicorn

from tuner.errors import UsageError
from tuner.serve.app import create
from tuner.serve.connection import Connection, Connections, SeldomInvalid, most_connections
from tuner.serve.settings import Settings

_KEEP_ALIVE_S = 15
_GRACE_S = 2.0
# The winners that are kept are many objects, none of them garbage: going through them all stops every
# answer for that long. Those of the start are left alone, the others gone through seldom, the young often.
_COLLECT = (50_000, 20, 50)
_SHUTDOWN_S = 10
_SELDOM_INVALID = SeldomInvalid()


def configured(settings: Settings) -> uvicorn.Config:
    """uvicorn with the application, and with connections that end.

    Raises DatabaseError where the database cannot be read.
    """
    # Of a body that is too slow the application says so first; the rest has no answer to wait for.
    connections = Connections(
        most_connections(), settings.head_s, settings.body_s + _GRACE_S, _KEEP_ALIVE_S
    )
    logging.getLogger("uvicorn.error").addFilter(_SELDOM_INVALID)
    return uvicorn.Config(
        create(settings, warm=True), http=functools.partial(Connection, connections),  # type: ignore[arg-type]
        ws="none", log_level="warning", access_log=False, server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S, timeout_graceful_shutdown=_SHUTDOWN_S, lifespan="off",
    )  # fmt: skip


def run(settings: Settings, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until the process is told to end; ``announce`` gets the address once it listens.

    Raises:
        UsageError: the address cannot be listened on.
        DatabaseError: the database cannot be read.
    """
    config = configured(settings)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=config.backlog)
    except OSError as error:
        message = (
            f"{host} port {port}: cannot be listened on ({error.strerror}); give another --port"
        )
        raise UsageError(message) from error
    with listening:
        place = f"[{host}]" if ":" in host else host
        announce(f"http://{place}:{listening.getsockname()[1]}/")
        gc.freeze()
        gc.set_threshold(*_COLLECT)
        uvicorn.Server(config).run(sockets=[listening])
