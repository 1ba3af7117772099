"""Bearer: who may write, by the token of a request."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from tuner.errors import TokenError
from tuner.host.terminal import one_line
from tuner.serve.problem_document import Refusal

_LOG = logging.getLogger(__name__)
_BEARER = HTTPBearer(auto_error=False, description="A token of `moetune token create`.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def require(request: Request, bearer: Bearer, scope: str) -> None:
    """Refuse who has no token (401), or one without the scope (403)."""
    try:
        token = request.app.state.tokens.holder(bearer.credentials if bearer else "")
    except TokenError as error:
        _LOG.error("%s", one_line(str(error)))
        raise Refusal(503, "tokens cannot be checked now; the service's log says why") from error
    if token is None:
        detail = (
            "no token, or one that is not known or was revoked; `moetune token create` makes one"
        )
        raise Refusal(401, detail, {"WWW-Authenticate": "Bearer"})
    if scope not in token.scopes:
        raise Refusal(403, f"this token lacks the scope {scope}; use one that has it")
    if not request.app.state.settings.writable:
        raise Refusal(403, "the database is read-only where this service runs; send it elsewhere")


def require_type(request: Request, wanted: str) -> None:
    """Refuse a body of another media type (415)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != wanted:
        raise Refusal(415, f"content-type {kind!r}: not read here; send {wanted}")
