"""The pages at ``/`` and ``/problems/...``, for people; they are no part of the API's document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from tuner.errors import DatabaseError, MoetuneError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report import page
from tuner.report.overview import inverse, overview
from tuner.serve.problem_document import Refusal
from tuner.store import listings
from tuner.store.database import Database
from tuner.target import Target

ROUTER = APIRouter(include_in_schema=False)
PREFIX = "/problems/"
MOST_ROWS = 200
_HEADERS = {
    # Figures carry styles of their own.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Id = Annotated[str, Path(max_length=64)]


@ROUTER.get("/")
def index(request: Request, skip: Annotated[int, Query(ge=0, le=10**9)] = 0) -> Response:
    """Problems x targets with what tuning gained."""
    rows = request.app.state.store.ask(lambda db: listings.overview(db, skip, MOST_ROWS + 1))
    return _html(
        "index.html",
        rows=[_row(row) for row in rows[:MOST_ROWS]],
        skip=skip,
        following=skip + MOST_ROWS if len(rows) > MOST_ROWS else None,
        before=max(skip - MOST_ROWS, 0) if skip else None,
    )


@ROUTER.get("/problems/{problem}/{target}")
def problem(
    problem: Id,
    target: Id,
    request: Request,
    tokens: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    load: Annotated[str, Query(max_length=64)] = "uniform",
) -> Response:
    """One problem on one target."""
    state = request.app.state
    view = state.store.ask(lambda db: _view(db, problem, target, tokens, load))
    drawn = page.drawings(view, state.peers)
    return _html("problem.html", view=view, drawings=drawn, ids=(problem, target))


@ROUTER.get("/style.css")
def style() -> Response:
    """How pages look."""
    return Response(page.text("style.css"), media_type="text/css", headers=_HEADERS)


@ROUTER.get("/page.js")
def script() -> Response:
    """Filter, sort and the choice of light or dark."""
    return Response(page.text("page.js"), media_type="text/javascript", headers=_HEADERS)


def _html(name: str, **values: Any) -> Response:
    return Response(page.fill(name, **values), media_type="text/html", headers=_HEADERS)


def _row(row: dict[str, Any]) -> dict[str, Any]:
    layer = Problem.from_key(row["problem"], name=row["problem_name"])
    target = Target.from_key({**row["target"], "name": row["target_name"]})
    gained = (inverse(row["ratio_worst"]), inverse(row["ratio_best"]))
    return row | {"layer": layer, "machine": target, "gained": gained}


def _view(db: Database, problem_id: str, target_id: str, tokens: int | None, load: str) -> Any:
    layer, machine = listings.problem(db, problem_id), listings.target(db, target_id)
    if layer is None or machine is None:
        raise Refusal(404, "no such problem or target here; go to / for those there are")
    try:
        chosen = None if tokens is None else Workload(tokens, load)
        problem = Problem.from_key(layer["problem"], name=layer["name"])
        target = Target.from_key({**machine["target"], "name": machine["name"]})
        return overview(db, problem, target, chosen)
    except DatabaseError as error:
        if "no winner" not in str(error):
            raise
        raise Refusal(404, str(error)) from error
    except MoetuneError as error:
        raise Refusal(404, str(error)) from error
