"""HTML: pages as answers, and refusals as pages for who asks with a browser."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from tuner.report import page
from tuner.serve.problem_document import Refusal

_API = "/v1/"
_HEADERS = {
    # Figures carry styles of their own.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def html(name: str, **values: Any) -> Response:
    """A page of a template."""
    return _html(page.fill(name, **values), 200)


def plain(text: str, media_type: str) -> Response:
    """A file that pages load."""
    return Response(text, media_type=media_type, headers=_HEADERS)


def refused(refusal: Refusal, headers: Headers, path: str) -> Response:
    """A problem document; a page for a browser, which asks for HTML, except under ``/v1``."""
    if path.startswith(_API) or "text/html" not in headers.get("accept", ""):
        return refusal.response()
    text = page.fill(
        "error.html",
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        errors=refusal.errors,
    )
    answer = _html(text, refusal.status)
    answer.headers.update({**(refusal.headers or {}), "Vary": "Accept"})
    return answer


def _html(text: str, status: int) -> Response:
    return Response(text.encode("utf-8", "replace"), status, _HEADERS, "text/html")
