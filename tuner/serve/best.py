"""``GET /v1/best``: the Selection for a workload. What it answered is kept by ``tuner.serve.answers``."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tuner.database import Database
from tuner.errors import DatabaseError, MoetuneError
from tuner.problem import Problem
from tuner.select import best_config
from tuner.selection import Selection
from tuner.serve import asked
from tuner.serve.problem_document import READING, Refusal, documented
from tuner.serve.schemas import SelectionAnswer
from tuner.serve.store import Store
from tuner.target import Target

MOST_TOKENS = 1 << 40
ROUTER = APIRouter(prefix="/v1", tags=["results"])


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
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Another data type than the model's."
    )
    pack: str | None = Field(
        None, min_length=1, max_length=64, description="Only variants that read this packed form."
    )
    compiler: str | None = Field(
        None, max_length=200, description="Version to compile with; the service's unless given."
    )


@ROUTER.get(
    "/best", response_model=SelectionAnswer, responses=documented(404, *READING),
    summary="The best configuration for a workload",
)  # fmt: skip
async def best(query: Annotated[Asked, Query()], request: Request) -> Response:
    """Select the variant to run, as `moetune best` does."""
    # On the loop itself: handing it to a thread costs more than the answer.
    store: Store = request.app.state.store
    problem, target = store.quick(lambda db: _keys(db, query))
    selection = _selected(problem, target, query, store)
    text = json.dumps(selection.to_json(), separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json")


def _keys(db: Database, query: Asked) -> tuple[Problem, Target]:
    problem = asked.problem_of(db, query.model, query.dtype)
    return problem, asked.target_for(db, query.target)


def _selected(problem: Problem, target: Target, query: Asked, store: Store) -> Selection:
    more: dict[str, Any] = {"pack": query.pack, "compiler": query.compiler}
    try:
        return best_config(problem, query.tokens, query.load, target, store.path, **more)
    except DatabaseError:
        raise
    except MoetuneError as error:  # a load, a packed form or a layer that makes no sense here
        raise Refusal(422, str(error)) from error
