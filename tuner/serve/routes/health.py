"""``GET /healthz`` and ``/metrics``: for who runs the service."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from tuner.serve.metrics import MEDIA_TYPE
from tuner.serve.problem_document import documented
from tuner.serve.schemas import HealthAnswer
from tuner.store import listings
from tuner.version import __version__

ROUTER = APIRouter(tags=["operation"])


@ROUTER.get("/healthz", responses=documented(429, 503))
def healthz(request: Request) -> HealthAnswer:
    """Whether the database can be read, and how much is in it."""
    rows = request.app.state.store.ask(listings.counts)
    return HealthAnswer(status="ok", version=__version__, **rows)


@ROUTER.get(
    "/metrics",
    response_class=Response,
    responses=documented(429, 503, text=True),
)
def metrics(request: Request) -> Response:
    """What the service did, in the text form of Prometheus."""
    state = request.app.state
    return Response(state.metrics.text(state.store.ask(listings.counts)), media_type=MEDIA_TYPE)
