"""``POST /v1/results``: winners from other machines, for who has a token."""

from __future__ import annotations

import dataclasses
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from tuner.database import Database
from tuner.errors import MergeError, TokenError
from tuner.merge import Merged, counts, merge
from tuner.serve.problem_document import Refusal, documented
from tuner.serve.schemas import ResultsAnswer
from tuner.serve.settings import Settings
from tuner.tokens import RESULTS

_LOG = logging.getLogger(__name__)
ROUTER = APIRouter(prefix="/v1", tags=["results"])
JSON_LINES = "application/x-ndjson"
_BEARER = HTTPBearer(auto_error=False, description="A token of `moetune token create`.")
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
_BODY = {
    "requestBody": {
        "required": True,
        "description": "Winners as `moetune export` writes them: one JSON object a line.",
        "content": {JSON_LINES: {"schema": {"type": "string", "minLength": 1}}},
    }
}


@ROUTER.post(
    "/results", openapi_extra=_BODY,
    responses=documented(401, 403, 408, 413, 415, 422, 429, 503),
)  # fmt: skip
async def results(request: Request, bearer: Bearer) -> ResultsAnswer:
    """Merge winners: all lines or, where one is bad, none; sending them again changes nothing.

    A row takes the place of another one only if it stands above it, as `moetune merge` judges.
    """
    await run_in_threadpool(require, request, bearer, RESULTS)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON_LINES:
        raise Refusal(415, f"content-type {kind!r}: not read here; send {JSON_LINES}")
    body = await request.body()
    if not body.strip():
        raise Refusal(422, "body: is empty; send winners as `moetune export` writes them")
    found = await run_in_threadpool(_merge, request.app.state.settings, body)
    for line in found:
        request.app.state.metrics.result(line.outcome.value)
    rows: list[dict[str, Any]] = [dataclasses.asdict(line) for line in found]
    return ResultsAnswer.model_validate({**counts(found), "lines": rows})


def require(request: Request, bearer: Bearer, scope: str) -> None:
    """Refuse who has no token (401), or one without the scope (403)."""
    try:
        token = request.app.state.tokens.holder(bearer.credentials if bearer else "")
    except TokenError as error:
        _LOG.error("%s", error)
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


def _merge(settings: Settings, body: bytes) -> list[Merged]:
    try:
        with Database(settings.db) as db:
            return merge(db, body, "body")
    except MergeError as error:
        raise Refusal(422, str(error)) from error
