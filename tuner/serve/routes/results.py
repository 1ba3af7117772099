"""``POST /v1/results``: winners from other machines, for who has a token."""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from tuner.errors import MergeError
from tuner.serve.bearer import Bearer, require, require_type
from tuner.serve.problem_document import Refusal, documented
from tuner.serve.schemas import ResultsAnswer
from tuner.serve.settings import Settings
from tuner.serve.tokens import RESULTS
from tuner.store.database import Database
from tuner.store.merge import Merged, counts, merge

ROUTER = APIRouter(prefix="/v1", tags=["results"])
JSON_LINES = "application/x-ndjson"
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
    require_type(request, JSON_LINES)
    body = await request.body()
    if not body.strip():
        raise Refusal(422, "body: is empty; send winners as `moetune export` writes them")
    found = await run_in_threadpool(_merge, request.app.state.settings, body)
    for line in found:
        request.app.state.metrics.result(line.outcome.value)
    rows: list[dict[str, Any]] = [dataclasses.asdict(line) for line in found]
    return ResultsAnswer.model_validate({**counts(found), "lines": rows})


def _merge(settings: Settings, body: bytes) -> list[Merged]:
    try:
        with Database(settings.db) as db:
            return merge(db, body, "body")
    except MergeError as error:
        raise Refusal(422, str(error)) from error
