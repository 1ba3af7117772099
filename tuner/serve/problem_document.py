"""Refusals as RFC 9457 problem documents: one form for every answer that is not what was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
SCHEMA_NAME = "ProblemDocument"
SCHEMA: dict[str, Any] = {
    "title": SCHEMA_NAME,
    "description": "RFC 9457: why a request was refused, and what mends it.",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "const": "about:blank"},
        "title": {"type": "string", "description": "The name of the status."},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What is wrong, and what mends it."},
        "errors": {
            "type": "array",
            "description": "The parts of the request that are wrong, where they are known.",
            "items": {
                "type": "object",
                "required": ["at", "detail"],
                "properties": {"at": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
}

# Why each status is given, as the OpenAPI document says it.
_MEANINGS = {
    401: "No token, or one that is not known or was revoked.",
    403: "A token that may not do this.",
    404: "Not in this database.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "Another media type than the one that is read here.",
    416: "None of the bytes that `Range` asks for are there.",
    422: "A parameter or the body makes no sense; `errors` names the parts.",
    429: "Too many requests; Retry-After says when to ask again.",
    503: "The database or the service cannot answer now.",
}


class Refusal(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.errors = status, detail, headers, errors
        self.title = HTTPStatus(status).phrase

    def response(self) -> Response:
        """The document as an answer."""
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            body["errors"] = [dict(error) for error in self.errors]
        text = json.dumps(body, ensure_ascii=False)
        return Response(
            text.encode("utf-8", "replace"), self.status, self.headers, media_type=MEDIA_TYPE
        )


def documented(*statuses: int, text: bool = False) -> dict[int | str, dict[str, Any]]:
    """The refusals of one end point, for the OpenAPI document; ``text``: it answers in plain text."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}}}
    retry = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
    plain = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    told: dict[int | str, dict[str, Any]] = {200: plain} if text else {}
    return told | {
        status: {
            "description": _MEANINGS[status],
            "content": content,
            **({"headers": retry} if status == 429 else {}),
        }
        for status in statuses
    }


READING = (422, 429, 503)
