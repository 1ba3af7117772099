"""``GET /v1/best``: the Selection for a workload."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tuner.errors import DatabaseError, MoetuneError
from tuner.problem.workload import Workload
from tuner.select.select import choose
from tuner.serve import asked
from tuner.serve.index import Index
from tuner.serve.metrics import Metrics
from tuner.serve.problem_document import READING, Refusal, documented
from tuner.serve.schemas import SelectionAnswer
from tuner.serve.selection_text import text
from tuner.serve.store import Store, Version

MOST_TOKENS = 1 << 40
# Answers to keep, some 2.5 KB each.
MOST_KEPT = 20_000
MEDIA_TYPE = "application/json"
PREFIX, PATH = "/v1", "/best"
FULL_PATH = PREFIX + PATH
_MEDIA_BYTES = MEDIA_TYPE.encode()
ROUTER = APIRouter(prefix=PREFIX, tags=["results"])


class Asked(BaseModel):
    """The query of ``best``."""

    model_config = ConfigDict(extra="forbid")

    model: asked.Model
    tokens: int = Field(ge=0, le=MOST_TOKENS, description="Tokens of one call.", examples=[128])
    target: str = Field(
        asked.HOST,
        min_length=1,
        max_length=8192,
        description="`host` (where the service runs), an id or architecture of /v1/targets, or a "
        "target's key as JSON.",
    )
    load: str = Field(
        "uniform", min_length=1, max_length=64, description="uniform, zipf:S or onehot."
    )
    dtype: asked.Dtype | None = Field(None, description="Another data type than the model's.")
    pack: str | None = Field(
        None, min_length=1, max_length=64, description="Only variants that read this packed form."
    )
    compiler: str | None = Field(
        None, max_length=200, description="Version to compile with; the service's unless given."
    )


@ROUTER.get(
    PATH, response_model=SelectionAnswer, responses=documented(404, *READING),
    summary="The best configuration for a workload",
)  # fmt: skip
async def best(query: Annotated[Asked, Query()], request: Request) -> Response:
    """Select the variant to run, as `moetune best` does."""
    # On the loop itself: handing it to a thread costs more than the answer.
    asked: Best = request.app.state.best
    answer = asked.answer(query, asked.store.version())
    return Response(answer, media_type=MEDIA_TYPE)


class Best:
    """Answers from the index of a store."""

    def __init__(self, store: Store) -> None:
        self.store, self._index = store, Index(store)

    def answer(self, query: Asked, version: Version) -> bytes:
        """The Selection as JSON, as ``best_config`` says it where the database lies.

        ``version`` is the store's, now.

        Raises:
            Refusal: the query makes no sense here.
            DatabaseError: the database is away.
        """
        problem = self._index.problem(version, query.model, query.dtype)
        target = self._index.target(version, query.target)
        groups = self._index.groups(version, problem)
        try:
            workload = Workload(query.tokens, query.load)
            chosen = choose(problem, workload, target, groups, query.pack, query.compiler)
        except MoetuneError as error:  # a load, a packed form or a layer that makes no sense here
            raise Refusal(422, str(error)) from error
        return text(chosen).encode()

    def warm(self) -> None:
        """Be ready for the first questions. Raises DatabaseError."""
        self._index.warm()


class QuickBest:
    """ASGI: answers ``best`` before the application is asked, which takes longer to see what is asked.

    What cannot be answered at once it leaves to the application, which says why. Answers are kept until the
    database changes: many machines ask the same.
    """

    def __init__(self, app: ASGIApp, best: Best, metrics: Metrics) -> None:
        self._app, self._best, self._metrics = app, best, metrics
        self._version: Version = ()
        self._kept: dict[bytes, bytes] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = None
        if scope["type"] == "http" and scope["path"] == FULL_PATH and scope["method"] == "GET":
            body = self._body(scope["query_string"])
        if body is None:
            await self._app(scope, receive, send)
            return
        scope["moetune.route"] = FULL_PATH
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", _MEDIA_BYTES)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _body(self, query: bytes) -> bytes | None:
        try:
            version = self._best.store.version()
            if version != self._version or len(self._kept) >= MOST_KEPT:
                self._version = version
                self._kept.clear()
            body = self._kept.get(query)
            if body is not None:
                self._metrics.kept()
                return body
            fields = _fields(query.decode("latin-1"))
            if fields is None:
                return None
            self._kept[query] = body = self._best.answer(Asked.model_validate(fields), version)
        except (ValidationError, Refusal, DatabaseError):
            return None
        return body


def _fields(query: str) -> dict[str, str] | None:
    """The parameters of a query; None where one is there twice or has no value."""
    pairs: list[Any]
    if "%" in query or "+" in query:
        pairs = parse_qsl(query, keep_blank_values=True)
    else:  # nothing to decode
        pairs = [pair.split("=", 1) for pair in query.split("&")]
    if any(len(pair) < 2 for pair in pairs):
        return None
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else None
