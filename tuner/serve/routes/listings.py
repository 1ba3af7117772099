"""``GET /v1/problems``, ``/v1/targets`` and ``/v1/trials``: what there is, a page at a time."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from tuner.problem import Problem
from tuner.serve.problem_document import READING, documented
from tuner.serve.schemas import MeasurementAnswer, ProblemsAnswer, TargetsAnswer, TrialsAnswer
from tuner.serve.settings import Settings
from tuner.store import listings

ROUTER = APIRouter(prefix="/v1", tags=["catalogue"])
MOST_ROWS = Settings.most_rows
# SQLite's whole numbers are of 64 bits.
_LARGEST = 2**63 - 1
_MEASURED = tuple(MeasurementAnswer.model_fields)

Status = Literal["ok", "invalid", "compile", "timeout", "crash", "wrong", "slow"]


class Page(BaseModel):
    """The query of a list of things with text ids."""

    model_config = ConfigDict(extra="forbid")

    after: str = Field("", max_length=64, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MOST_ROWS, description="Rows of a page.")


class TrialPage(BaseModel):
    """The query of ``trials``: filters and the page."""

    model_config = ConfigDict(extra="forbid")

    problem: str | None = Field(None, max_length=64, description="Id of a problem.")
    target: str | None = Field(None, max_length=64, description="Id of a target.")
    tokens: int | None = Field(None, ge=0, le=_LARGEST)
    load: str | None = Field(None, max_length=64)
    status: Status | None = None
    session: str | None = Field(None, max_length=64)
    variant: str | None = Field(None, max_length=200, description="A variant's name.")
    after: int = Field(0, ge=0, le=_LARGEST, description="`next` of the page before.")
    limit: int = Field(100, ge=1, le=MOST_ROWS, description="Rows of a page.")


@ROUTER.get("/problems", response_model=ProblemsAnswer, responses=documented(*READING))
def problems(query: Annotated[Page, Query()], request: Request) -> Response:
    """The layers that were tuned, by id."""
    rows = request.app.state.store.ask(
        lambda db: listings.problems(db, query.after, query.limit + 1)
    )
    return _page("problems", rows, query.limit, _problem)


@ROUTER.get("/targets", response_model=TargetsAnswer, responses=documented(*READING))
def targets(query: Annotated[Page, Query()], request: Request) -> Response:
    """The machines that were measured, by id."""
    rows = request.app.state.store.ask(
        lambda db: listings.targets(db, query.after, query.limit + 1)
    )
    return _page("targets", rows, query.limit, _target)


@ROUTER.get("/trials", response_model=TrialsAnswer, responses=documented(*READING))
def trials(query: Annotated[TrialPage, Query()], request: Request) -> Response:
    """Trials of every status, oldest first."""
    given = query.model_dump(exclude_none=True, include=set(listings.TRIAL_FILTERS))
    rows = request.app.state.store.ask(
        lambda db: listings.trials(db, given, query.after, query.limit + 1)
    )
    return _page("trials", rows, query.limit, _trial)


def _page(name: str, rows: list[dict[str, Any]], limit: int, told: Any) -> Response:
    """One row more than a page was asked for: it tells whether there is a next one."""
    shown = rows[:limit]
    following = shown[-1]["id"] if len(rows) > limit else None
    body = {name: [told(row) for row in shown], "next": following}
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    return Response(text, media_type="application/json")


def _problem(row: dict[str, Any]) -> dict[str, Any]:
    described = Problem.from_key(row["problem"], name=row["name"]).describe()
    shown = {name: row[name] for name in ("id", "name", "trials", "winners")}
    return shown | {"key": row["problem"], "description": described}


def _target(row: dict[str, Any]) -> dict[str, Any]:
    shown = {name: row[name] for name in ("id", "arch", "name", "ceilings")}
    return shown | {"key": row["target"]}


def _trial(row: dict[str, Any]) -> dict[str, Any]:
    measured = {name: row[name] for name in _MEASURED} if row["kind"] else None
    rest = {name: value for name, value in row.items() if name not in _MEASURED}
    return rest | {"measurement": measured}
