"""Asked: what a query's texts mean: which problem, which target.

A text that stands for a key is checked field by field before anything is made of it.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any

from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from tuner.errors import JsonError, ProblemError, TargetError
from tuner.host import json_text
from tuner.problem import PRESETS, Problem
from tuner.problem.dtypes import DTYPES
from tuner.serve.problem_document import Refusal
from tuner.store import listings
from tuner.store.database import Database
from tuner.store.fields import target_of
from tuner.target import Target, detect

# So many rows tell that a name is not the only one.
_SEVERAL = 4
# Far beyond every machine; arithmetic on sizes stays exact and quick.
_LARGEST = 1 << 50
HOST = "host"

# A query's `model`, which `problem_of` reads.
Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="A preset's name, an id or label of /v1/problems, or a problem's key as JSON.",
        examples=["granite-3.0-1b-a400m"],
    ),
]


def _known_dtype(name: str) -> str:
    if name not in DTYPES:
        known = ", ".join(DTYPES)
        raise PydanticCustomError("dtype", "not known; use one of {known}", {"known": known})
    return name


# A query's `dtype`.
Dtype = Annotated[
    str,
    AfterValidator(_known_dtype),
    WithJsonSchema({"enum": list(DTYPES), "type": "string"}),
]


def problem_of(db: Database, model: str, dtype: str | None) -> Problem:
    """The problem of a preset's name, a stored id or label, or a key as a JSON object.

    Raises:
        Refusal: there is none (404), several have the label, or the key makes no sense (422).
    """
    problem = _problem(db, model)
    return problem.replace(dtype=dtype) if dtype and dtype != problem.dtype else problem


def _problem(db: Database, model: str) -> Problem:
    if model.startswith("{"):
        key = _object("model", model)
        _check_sizes("model", key)
        try:
            return Problem.from_key(key)
        except ProblemError as error:
            raise Refusal(422, f"model: {error}") from error
    if model in PRESETS:
        return PRESETS[model]
    row = listings.layer(db, model)
    rows = [row] if row else listings.layers_named(db, model, _SEVERAL)
    if len(rows) > 1:
        ids = ", ".join(found["id"] for found in rows)
        raise Refusal(422, f"model {model!r}: several problems have this label ({ids}); give an id")
    if not rows:
        raise Refusal(
            404,
            f"model {model!r}: not known here; give a preset ({', '.join(PRESETS)}), an id or label of "
            "/v1/problems, or the key of a problem as JSON",
        )
    return Problem.from_key(rows[0]["problem"], name=rows[0]["name"])


def target_for(db: Database, text: str) -> Target:
    """The target of ``host`` (where the service runs), a stored id, an architecture, or a key as JSON.

    An architecture means this machine if it is of that one, else the stored target with the least id.

    Raises:
        Refusal: there is none (404), or the key makes no sense (422).
    """
    if text.startswith("{"):
        key = _object("target", text)
        _check_sizes("target", key)
        try:
            return target_of(key, "target")
        except TargetError as error:
            raise Refusal(422, str(error)) from error
    host = _host()
    if text in (HOST, host.arch, host.digest):
        return host
    row = listings.target(db, text)
    rows = [row] if row else listings.targets_of(db, text, 1)
    if not rows:
        raise Refusal(
            404,
            f"target {text!r}: not known here; give {HOST} ({host.arch}), an id or architecture of "
            "/v1/targets, or the key of a target as JSON",
        )
    return Target.from_key({**rows[0]["target"], "name": rows[0]["name"]})


@functools.cache
def _host() -> Target:
    """The machine stays the same while a service runs."""
    return detect()


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = json_text.parse(text)
    except JsonError as error:
        raise Refusal(
            422, f"{name}: starts like JSON but is none ({error}); give an object"
        ) from error
    return dict(value)  # what starts with a brace and is JSON is an object


def _check_sizes(name: str, key: dict[str, Any]) -> None:
    for field, value in key.items():
        if isinstance(value, int | float) and not 0 <= value <= _LARGEST:
            raise Refusal(
                422, f"{name}.{field}: is {value}, must be from 0 to {_LARGEST}; give such a one"
            )
