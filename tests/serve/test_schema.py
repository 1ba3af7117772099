"""The service does what its OpenAPI document says, whatever it is asked: no 5xx, no other answer.

Schemathesis makes requests from the document, valid and not, and checks each answer against it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from tests.bundles import bundle
from tests.services import served
from tuner.bundle import shelf
from tuner.bundle.shelf import Shelf
from tuner.serve.app import create
from tuner.serve.routes import bundles
from tuner.serve.routes.results import JSON_LINES
from tuner.serve.settings import Settings
from tuner.serve.tokens import SCOPES, Tokens, path_beside

__all__ = ["served"]

FEW, MANY = 6, 300
# Headers that make an answer a part, or none: heeded by downloads, by nothing else.
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "Range": st.sampled_from(["bytes=0-9", "bytes=-5", "bytes=0-1,4-5", "bytes=999999-", "x"]),
        "If-None-Match": st.sampled_from(["*", '"x"', 'W/"x", "y"']),
        "If-Range": st.sampled_from(['"x"', "Sat, 01 Jan 2000 00:00:00 GMT"]),
    },
)
Change = Callable[[Any], None]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@schemathesis.serializer(JSON_LINES, bundles.MEDIA_TYPE)
def as_is(context: Any, value: Any) -> bytes:
    """Texts and bytes as they are; anything else, of which the document says nothing, as JSON."""
    if isinstance(value, str):
        return value.encode()
    data = getattr(value, "data", value)  # what stands for a binary file
    return data if isinstance(data, bytes) else json.dumps(value, default=str).encode()


def check_all(path: Path, examples: int, **how: Any) -> list[str]:
    """Ask every operation so often, valid and not; returns the operations."""
    settings = Settings(path, reads_per_s=1e9, writes_per_s=1e9, unsigned_bundles=True)
    app = create(settings)
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    token = Tokens(path_beside(path)).create("test", SCOPES)
    archive = bundle(path.with_name("known.moe")).read_bytes()
    known, _ = Shelf(shelf.path_beside(path), unsigned=True).take(archive, "known")
    asked = []
    for found in document.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)
        takes = operation.definition.raw
        negatable = takes.get("parameters") or takes.get("requestBody")
        for mode in MODES if negatable else MODES[:1]:
            change = _known(operation.label, known.id, archive) if mode is MODES[0] else None
            check(operation, mode, token, examples, change, **how)
    return asked


def _known(label: str, id: str, archive: bytes) -> Change | None:
    """What makes a valid request, which chance won't find, one for the bundle that is there."""

    def ask_for_it(case: Any) -> None:
        case.path_parameters = {"id": id}

    def send_it(case: Any) -> None:
        case.body = archive

    place = "/v1/bundles"
    changes = {f"GET {place}/{{id}}": ask_for_it, f"HEAD {place}/{{id}}": ask_for_it}
    return (changes | {f"POST {place}": send_it}).get(label)


def check(
    operation: Any,
    mode: GenerationMode,
    token: str,
    examples: int,
    change: Change | None,
    **how: Any,
) -> None:
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), **how,
    )  # fmt: skip
    @hypothesis.given(
        case=operation.as_strategy(generation_mode=mode), known=st.booleans(), more=CONDITIONS
    )
    def run(case: Any, known: bool, more: dict[str, str]) -> None:
        # What a load, a key or a line of winners may be, a JSON schema cannot say: 422 is documented.
        unchecked = [positive_data_acceptance]
        if change and known:
            change(case)
            unchecked.append(negative_data_rejection)  # to it, bytes are no string
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}", **more}, excluded_checks=unchecked
        )

    run()


def test_few_requests(served: Path) -> None:
    asked = check_all(served, FEW, derandomize=True)
    assert {"GET /v1/best", "POST /v1/bundles", "HEAD /v1/bundles/{id}"} <= set(asked)
    assert len(asked) >= 13


@pytest.mark.slow
def test_many_requests(served: Path) -> None:
    check_all(served, MANY)
