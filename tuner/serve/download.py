"""Download: a file that never changes, whole, in part, or not at all where the client has it (RFC 9110).

Starlette sends files and their ranges; what it says with a plain text is decided here, before it is asked.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from tuner.serve.problem_document import Refusal

# A client that takes no more bytes for so long is let go.
STALL_S = 20.0
_MOST_RANGES = 32
_ONE = r"(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})"
_RANGE = re.compile(rf"bytes=\s*{_ONE}(?:\s*,\s*{_ONE})*\s*")
_ENDS = re.compile(r"([0-9]*)-([0-9]*)")


def answer(asked: Headers, path: Path, tag: str, name: str, media_type: str) -> Response:
    """The answer to GET or HEAD for the file at ``path``, whose content ``tag`` stands for, called ``name``.

    Raises FileNotFoundError where it is not there.
    """
    headers = {
        "ETag": f'"{tag}"',
        "Cache-Control": "public, max-age=31536000, immutable",
        "X-Content-Type-Options": "nosniff",
    }
    if _matches(asked.get("if-none-match", ""), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return _File(path, path.stat(), name, headers, media_type)


def _matches(condition: str, tag: str) -> bool:
    """Whether ``If-None-Match`` names this tag; weak ones count, too (section 13.1.2)."""
    named = (part.strip().removeprefix("W/") for part in condition.split(","))
    return any(part in ("*", tag) for part in named)


class _File(FileResponse):
    def __init__(
        self,
        path: Path,
        status: os.stat_result,
        name: str,
        headers: Mapping[str, str],
        media_type: str,
    ) -> None:
        super().__init__(
            path, headers=headers, media_type=media_type, filename=name, stat_result=status
        )
        self._size = status.st_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def patient(message: Message) -> None:
            async with asyncio.timeout(STALL_S):
                await send(message)

        headers = Headers(scope=scope)
        asked = self._ranges(headers.get("range", "")) if scope["method"] == "GET" else {}
        if headers.get("if-range") not in (None, self.headers["etag"]):
            asked = {}
        had = [part for part, first in asked.items() if first < self._size]
        if had or not asked:
            left = [(name, value) for name, value in scope["headers"] if name != b"range"]
            if had:  # those that cannot be had are left out (section 14.1.2)
                left.append((b"range", f"bytes={','.join(had)}".encode()))
            await super().__call__({**scope, "headers": left}, receive, patient)
        else:
            told = f"range {headers['range']!r}: the file has {self._size} bytes; ask for those"
            refusal = Refusal(416, told, {"Content-Range": f"bytes */{self._size}"})
            await refusal.response()(scope, receive, send)

    def _ranges(self, text: str) -> dict[str, int]:
        """The first byte of each range; none where the header makes no sense, or asks for more parts than
        anybody needs, which counts as absent (section 14.2)."""
        if not _RANGE.fullmatch(text) or text.count(",") >= _MOST_RANGES:
            return {}
        starts = {}
        for first, last in _ENDS.findall(text):
            if first and last and int(last) < int(first):
                return {}
            starts[f"{first}-{last}"] = int(first) if first else max(self._size - int(last), 0)
        return starts
