"""The service does what its OpenAPI document says, whatever it is asked: no 5xx, no other answer.

Schemathesis makes requests from the document, valid and not, and checks each answer against it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.services import served
from tuner.serve.app import create
from tuner.serve.results import JSON_LINES
from tuner.serve.settings import Settings
from tuner.tokens import RESULTS, Tokens, path_beside

__all__ = ["served"]

FEW, MANY = 6, 300
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@schemathesis.serializer(JSON_LINES)
def lines(context: Any, value: Any) -> bytes:
    """A text as it is; anything else, of which the document says nothing, as JSON."""
    return value.encode() if isinstance(value, str) else json.dumps(value, default=str).encode()


def check_all(path: Path, examples: int, **how: Any) -> list[str]:
    """Ask every operation so often, valid and not; returns the operations."""
    app = create(Settings(path, reads_per_s=1e9, writes_per_s=1e9))
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    token = Tokens(path_beside(path)).create("test", [RESULTS])
    asked = []
    for found in document.get_all_operations():
        operation = found.ok()
        asked.append(operation.label)
        takes = operation.definition.raw
        negatable = takes.get("parameters") or takes.get("requestBody")
        for mode in MODES if negatable else MODES[:1]:
            check(operation, mode, token, examples, **how)
    return asked


def check(operation: Any, mode: GenerationMode, token: str, examples: int, **how: Any) -> None:
    @hypothesis.settings(
        max_examples=examples, deadline=None, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), **how,
    )  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        # What a load, a key or a line of winners may be, a JSON schema cannot say: 422 is documented.
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}"}, excluded_checks=[positive_data_acceptance]
        )

    run()


def test_few_requests(served: Path) -> None:
    asked = check_all(served, FEW, derandomize=True)
    assert "GET /v1/best" in asked
    assert len(asked) >= 8


@pytest.mark.slow
def test_many_requests(served: Path) -> None:
    check_all(served, MANY)
