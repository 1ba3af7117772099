"""The pages at ``/`` and ``/problems/...``, for people; they are no part of the API's document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from tuner.errors import DatabaseError, MoetuneError
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.report import drawings, page, shipped_copy
from tuner.report.answers import Answer, which_machine
from tuner.report.machines import side_by_side
from tuner.report.overview import NothingThereError, inverse, overview
from tuner.report.peer_times import PeerFile
from tuner.report.running import Running, running, running_of
from tuner.report.sections import Section, section
from tuner.serve.html import html, plain
from tuner.serve.problem_document import Refusal
from tuner.store import listings
from tuner.store.database import Database
from tuner.target import Target

ROUTER = APIRouter(include_in_schema=False)
MOST_ROWS = 200
_PREFIX, _LIVE = "/problems/", "/trials"
Id = Annotated[str, Path(max_length=64)]
Tokens = Annotated[int | None, Query(ge=0, le=2**62)]
Load = Annotated[str, Query(max_length=64)]


def is_kept(path: str) -> bool:
    """Whether a page follows from path, query and database alone, and costs something to make."""
    return path == "/" or (path.startswith(_PREFIX) and not path.endswith(_LIVE))


@ROUTER.get("/")
def index(request: Request, skip: Annotated[int, Query(ge=0, le=10**9)] = 0) -> Response:
    """Problems x targets with what tuning gained."""
    rows, found = request.app.state.store.ask(
        lambda db: (listings.overview(db, skip, MOST_ROWS + 1), running(db))
    )
    return html(
        "index.html",
        rows=[_row(row) for row in rows[:MOST_ROWS]],
        shipped=_shipped(rows) if not skip else [],
        running=found,
        skip=skip,
        following=skip + MOST_ROWS if len(rows) > MOST_ROWS else None,
        before=max(skip - MOST_ROWS, 0) if skip else None,
    )


@ROUTER.get("/running")
def sessions(request: Request) -> Response:
    """The part of the first page that follows the sessions in progress."""
    return html("running.html", running=request.app.state.store.ask(running))


@ROUTER.get("/problems/{problem}")
def layer(problem: Id, request: Request) -> Response:
    """One problem on all targets."""
    found, machines = request.app.state.store.ask(lambda db: _layer(db, problem))
    load = machines.rows[0].load if machines.rows else "uniform"
    return html(
        "layer.html",
        problem=found,
        machines=machines,
        answers=[Answer("Which machine is faster?", which_machine(machines))],
        beside=drawings.beside(machines, load),
    )


@ROUTER.get("/problems/{problem}/{target}")
def problem(
    problem: Id, target: Id, request: Request, tokens: Tokens = None, load: Load = "uniform"
) -> Response:
    """One problem on one target."""
    return _page("problem.html", request, problem, target, tokens, load)


@ROUTER.get("/problems/{problem}/{target}/trials")
def trials(
    problem: Id, target: Id, request: Request, tokens: Tokens = None, load: Load = "uniform"
) -> Response:
    """The part of its page that follows a session in progress."""
    return _page("trials.html", request, problem, target, tokens, load)


@ROUTER.get("/style.css")
def style() -> Response:
    """How pages look."""
    return plain(page.text("style.css"), "text/css")


@ROUTER.get("/page.js")
def script() -> Response:
    """What pages do in a browser."""
    return plain(page.script(), "text/javascript")


def _page(
    name: str, request: Request, problem: str, target: str, tokens: int | None, load: str
) -> Response:
    state = request.app.state
    found, session = state.store.ask(
        lambda db: _section(db, state.peers, (problem, target), tokens, load)
    )
    return html(name, section=found, running=session, ids=(problem, target))


def _shipped(own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What ships of problems and targets that the database does not have."""
    other = shipped_copy.database()
    known = {(row["problem_id"], row["target_id"]) for row in own}
    rows = listings.overview(other, 0, MOST_ROWS) if other else []
    return [_row(row) for row in rows if (row["problem_id"], row["target_id"]) not in known]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    layer = Problem.from_key(row["problem"], name=row["problem_name"])
    target = Target.from_key({**row["target"], "name": row["target_name"]})
    gained = (inverse(row["ratio_worst"]), inverse(row["ratio_best"]))
    return row | {"layer": layer, "machine": target, "gained": gained}


def _layer(db: Database, id: str) -> Any:
    found = _problem(db, id)
    return found, side_by_side(db, found)


def _problem(db: Database, id: str) -> Problem:
    other = shipped_copy.database()
    row = listings.layer(db, id) or (listings.layer(other, id) if other else None)
    if row is None:
        raise Refusal(404, "no such problem here; go to / for those there are")
    return Problem.from_key(row["problem"], name=row["name"])


def _section(
    db: Database, peers: PeerFile, ids: tuple[str, str], tokens: int | None, load: str
) -> tuple[Section, Running | None]:
    home = shipped_copy.holding(db, *ids)
    machine = listings.target(home, ids[1])
    if machine is None:
        raise Refusal(404, "no such target here; go to / for those there are")
    problem = _problem(db, ids[0])
    try:
        chosen = None if tokens is None else Workload(tokens, load)
        target = Target.from_key({**machine["target"], "name": machine["name"]})
        found = overview(home, problem, target, chosen)
    except MoetuneError as error:
        if isinstance(error, DatabaseError) and not isinstance(error, NothingThereError):
            raise
        raise Refusal(404, str(error)) from error
    made = section(found, peers, side_by_side(db, problem), shipped=home is not db)
    return made, running_of(db, *ids)
