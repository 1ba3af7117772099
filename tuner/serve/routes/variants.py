"""``GET /v1/variants/{name}`` and its Mojo source.

A name is read by the grammar of the templates that are installed and rendered from them in memory: no
part of it is ever a path.
"""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from tuner.codegen.render import render
from tuner.errors import MoetuneError
from tuner.serve import asked
from tuner.serve.problem_document import READING, Refusal, documented
from tuner.serve.schemas import VariantAnswer
from tuner.space import templates
from tuner.space.variant import Variant, parse
from tuner.store import listings

ROUTER = APIRouter(prefix="/v1/variants", tags=["variants"])
MOST_WON = 200

Name = Annotated[
    str,
    Path(max_length=200, description="A variant's name, as `best` gives it."),
]


class LayerQuery(BaseModel):
    """The query of a source: the layer that it is rendered for."""

    model_config = ConfigDict(extra="forbid")

    model: asked.Model
    dtype: asked.Dtype | None = None


@ROUTER.get("/{name}", response_model=VariantAnswer, responses=documented(404, *READING))
def variant(name: Name, request: Request) -> Response:
    """A variant's configuration, and the workloads of this database that it won."""
    found = variant_named(name)
    row = request.app.state.store.ask(lambda db: listings.variant(db, found.name, MOST_WON))
    body = {
        "name": found.name,
        "template": found.template,
        "config": found.config,
        "pack": found.pack,
        "trials": row["trials"] if row else 0,
        "won": row["won"] if row else [],
    }
    return Response(json.dumps(body, separators=(",", ":")), media_type="application/json")


@ROUTER.get(
    "/{name}/source",
    response_class=Response,
    responses=documented(404, *READING, text=True),
)
def source(name: Name, query: Annotated[LayerQuery, Query()], request: Request) -> Response:
    """The Mojo source of a variant for a layer, rendered from its template."""
    found = variant_named(name)
    problem = request.app.state.store.ask(lambda db: asked.problem_of(db, query.model, query.dtype))
    try:
        text = render(problem, found).text
    except MoetuneError as error:
        raise Refusal(422, f"{name}: {error}") from error
    return Response(text, media_type="text/plain")


def variant_named(name: str) -> Variant:
    """The Variant of a name of one of the installed templates; Refusal (404) for any other text."""
    if name.startswith(tuple(f"{known}_" for known in templates.names())):
        try:
            return parse(name)
        except MoetuneError as error:
            raise Refusal(404, str(error)) from error
    raise Refusal(
        404,
        f"{name!r}: no variant of the templates that are installed here "
        f"({', '.join(templates.names())}); give a name as /v1/best tells it",
    )
