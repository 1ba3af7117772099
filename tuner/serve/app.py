"""The application: end points behind limits, every refusal a problem document."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp

from tuner.bundle import shelf
from tuner.errors import DatabaseError
from tuner.host.terminal import one_line
from tuner.report.peer_times import PeerFile
from tuner.serve.answers import KeptAnswers
from tuner.serve.html import refused
from tuner.serve.limits import Limits
from tuner.serve.metrics import Metrics
from tuner.serve.problem_document import SCHEMA, SCHEMA_NAME, Refusal
from tuner.serve.routes import best, bundles, health, listings, people, results, variants
from tuner.serve.settings import Settings
from tuner.serve.store import Store
from tuner.serve.tokens import Tokens, path_beside
from tuner.version import __version__

_LOG = logging.getLogger(__name__)
_ROUTERS = (
    best.ROUTER,
    results.ROUTER,
    bundles.ROUTER,
    listings.ROUTER,
    variants.ROUTER,
    health.ROUTER,
    people.ROUTER,
)
_ABOUT = (
    "Tuned Mixture-of-Experts kernels: which variant to run for a workload, and what it rests on. "
    "Refusals are RFC 9457 problem documents."
)


def create(settings: Settings, warm: bool = False) -> ASGIApp:
    """The ASGI application that serves ``settings.db``; ``warm``: ready for the first questions to ``best``.

    Raises DatabaseError where it is to be warm and the database cannot be read.
    """
    app = FastAPI(
        title="moetune", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None
    )
    app.state.settings = settings
    app.state.store = Store(settings.db, settings.answer_s)
    app.state.best = best.Best(app.state.store)
    if warm:
        app.state.best.warm()
    app.state.metrics = Metrics()
    app.state.peers = PeerFile(settings.peers)
    app.state.shelf = shelf.Shelf(shelf.path_beside(settings.db), settings.unsigned_bundles)
    app.state.tokens = Tokens(path_beside(settings.db))
    for router in _ROUTERS:
        app.include_router(router)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.openapi = functools.cache(lambda: _document(app))  # type: ignore[method-assign]
    kept = KeptAnswers(app, app.state.store, app.state.metrics, people.is_kept)
    quick = best.QuickBest(kept, app.state.best, app.state.metrics)
    return Limits(quick, settings, app.state.metrics)


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the form of refusals that the framework would give by itself."""
    document = FastAPI.openapi(app)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas[SCHEMA_NAME] = SCHEMA
    return document


def _told(request: Request, refusal: Refusal) -> Response:
    return refused(refusal, request.headers, request.url.path)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _told(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    """A query or body that does not have the form of its schema."""
    assert isinstance(error, RequestValidationError)
    parts = [
        {"at": ".".join(map(str, part["loc"])), "detail": str(part["msg"])}
        for part in error.errors()
    ]
    told = "; ".join(f"{part['at']}: {part['detail']}" for part in parts)
    return _told(request, Refusal(422, f"{told}; see /openapi.json", errors=parts))


async def _unrouted(request: Request, error: Exception) -> Response:
    """No such path, or another method than the path has."""
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase.lower()
    detail = f"{request.method} {request.url.path}: {phrase}; see /openapi.json"
    return _told(request, Refusal(error.status_code, detail, error.headers))


async def _away(request: Request, error: Exception) -> Response:
    """What is wrong with the database names files of this machine, so the log alone tells it."""
    _LOG.error("%s", one_line(str(error)))
    refusal = Refusal(503, "the database cannot be read now; the service's log says why")
    return _told(request, refusal)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours; the server logs it with its trace."""
    return _told(request, Refusal(500, "a fault in the service; its log says more"))


Handler = Callable[[Request, Exception], Awaitable[Response]]
_HANDLERS: dict[type[Exception], Handler] = {
    Refusal: _refused,
    RequestValidationError: _invalid,
    HTTPException: _unrouted,
    DatabaseError: _away,
    Exception: _failed,
}
