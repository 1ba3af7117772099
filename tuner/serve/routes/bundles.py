"""``/v1/bundles``: signed files of tuned kernels: a list, downloads, and new ones from who has a token."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from tuner.bundle.shelf import Shelf, Shelved
from tuner.errors import BundleError, BundleFolderError, UsageError
from tuner.host.terminal import one_line
from tuner.serve import download
from tuner.serve.bearer import Bearer, require, require_type
from tuner.serve.problem_document import READING, Refusal, documented
from tuner.serve.routes.listings import Page
from tuner.serve.schemas import BundleAnswer, BundlesAnswer
from tuner.serve.tokens import BUNDLES

_LOG = logging.getLogger(__name__)
ROUTER = APIRouter(prefix="/v1/bundles", tags=["bundles"])
MEDIA_TYPE = "application/zip"
Id = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="SHA-256 of its bytes, as the list has it.")
]
_BINARY = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_TAG = {"ETag": {"description": "The id in quotes.", "schema": {"type": "string"}}}
_HEAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "Its headers.", "headers": _TAG},
    304: {"description": "`If-None-Match` names it.", "headers": _TAG},
}
_GET: dict[int | str, dict[str, Any]] = {
    200: {"description": "The whole file.", "headers": _TAG, **_BINARY},
    206: {
        "description": "The bytes that `Range` asks for; several ranges as multipart/byteranges.",
        "headers": _TAG,
        "content": _BINARY["content"] | {"multipart/byteranges": {"schema": {"type": "string"}}},
    },
    304: _HEAD[304],
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "A bundle as `moetune bundle build --key` writes it.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary", "minLength": 1}}},
    }
}


@ROUTER.get("", response_model=BundlesAnswer, responses=documented(*READING))
@ROUTER.head("", response_class=Response, responses=documented(*READING))
def bundles(query: Annotated[Page, Query()], request: Request) -> Response:
    """The bundles that were posted, by id."""
    try:
        found = _shelf(request).page(query.after, query.limit + 1)
    except BundleFolderError as error:
        raise _unusable(error) from error
    shown = found[: query.limit]
    following = shown[-1].id if len(found) > query.limit else None
    return JSONResponse({"bundles": [asdict(row) for row in shown], "next": following})


@ROUTER.get("/{id}", response_class=Response, responses=_GET | documented(404, 416, *READING))
@ROUTER.head("/{id}", response_class=Response, responses=_HEAD | documented(404, *READING))
def bundle(id: Id, request: Request) -> Response:
    """The bytes of a bundle; its ETag is its id. `Range`, `If-Range` and `If-None-Match` are heeded.

    Verify it before you run it: `moetune bundle install` does.
    """
    try:
        found = _shelf(request).find(id)
        if found is not None:
            path, name = _shelf(request).path(found.id), f"{found.id[:16]}.moe"
            return download.answer(request.headers, path, found.id, name, MEDIA_TYPE)
    except BundleFolderError as error:
        raise _unusable(error) from error
    except FileNotFoundError:
        pass
    raise Refusal(404, "no bundle with this id here; see /v1/bundles")


@ROUTER.post(
    "", openapi_extra=_BODY, response_model=BundleAnswer, status_code=201,
    responses={200: {"description": "It was here already.", "model": BundleAnswer},
               **documented(401, 403, 408, 413, 415, 422, 429, 503)},
)  # fmt: skip
async def post(request: Request, bearer: Bearer) -> Response:
    """Keep a bundle that a key signed which is trusted where the service runs; once, however often it is sent.

    It is verified as `moetune bundle verify` does; nothing in it is run.
    """
    await run_in_threadpool(require, request, bearer, BUNDLES)
    require_type(request, MEDIA_TYPE)
    body = await request.body()
    found, new = await run_in_threadpool(_taken, _shelf(request), body)
    headers = {"Location": f"/v1/bundles/{found.id}"}
    return JSONResponse(asdict(found), 201 if new else 200, headers)


def _taken(shelf: Shelf, body: bytes) -> tuple[Shelved, bool]:
    try:
        return shelf.take(body, "body")
    except (BundleFolderError, UsageError) as error:
        raise _unusable(error) from error
    except BundleError as error:
        raise Refusal(422, str(error)) from error


def _unusable(error: Exception) -> Refusal:
    """Folders and keys are named in the log alone."""
    _LOG.error("%s", one_line(str(error)))
    return Refusal(503, "bundles or trusted keys cannot be used now; the service's log says why")


def _shelf(request: Request) -> Shelf:
    shelf: Shelf = request.app.state.shelf
    return shelf
