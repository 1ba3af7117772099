"""Client: ask a service for the best configuration, as ``tuner.best_config`` asks a database.

Every answer is kept in a file. Where the service cannot be reached the kept answer is given, and its
``reason`` says how old it is; a service that says no is never answered for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tuner.errors import CompileError, JsonError, ServiceError, TargetError, UsageError
from tuner.host import json_text, web
from tuner.host.arguments import require
from tuner.host.files import write_whole
from tuner.host.paths import cache_dir
from tuner.host.terminal import one_line
from tuner.host.toolchain import toolchain_version
from tuner.problem import Problem
from tuner.problem.workload import Workload
from tuner.select.selection import Selection
from tuner.store.fields import target_of
from tuner.target import Target, detect

TIMEOUT_S = 5.0
# A selection has a few KiB; what is much larger is none.
_MOST_BYTES = 1 << 20
_MOST_SHOWN = 1000
_NO_SELECTION = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
_JSON_LINES = "application/x-ndjson"


class Client:
    """A service at ``url``, and what it answered before.

    Args:
        url: like ``http://tuning.lab:8080``.
        cache: folder of kept answers; one in the user's cache unless given.
        token: lets ``send`` write.
        timeout_s: seconds until the whole answer of the service is there.

    Raises:
        UsageError: a url that is no address of http or https, or a token or time that is none.
    """

    def __init__(
        self,
        url: str,
        *,
        cache: str | os.PathLike[str] | None = None,
        token: str = "",
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        require("url", url, str)
        if fault := web.url_fault(url):
            raise UsageError(f"url {url!r}: {fault}; give the service's")
        if not (token.isascii() and token.isprintable() and " " not in token):
            raise UsageError(
                "token: holds what no token has; give a line of `moetune token create`"
            )
        if not 0 < timeout_s <= threading.TIMEOUT_MAX:
            raise UsageError(f"timeout_s={timeout_s}: must be above 0 s, and finite")
        self.url = url.rstrip("/")
        self._cache = Path(cache) if cache is not None else cache_dir() / "answers"
        self._token, self._timeout_s, self._clock = token, timeout_s, clock

    def best_config(
        self,
        problem: Problem,
        tokens: int,
        load: str = "uniform",
        target: Target | None = None,
        pack: str | None = None,
        *,
        compiler: str | None = None,
    ) -> Selection:
        """Select the variant to run; the arguments are those of ``tuner.best_config``.

        Raises:
            ProblemError: ``tokens`` or ``load`` make no sense.
            ServiceError: the service says no, or cannot be reached and never answered this.
        """
        workload = Workload(tokens, load)
        target = detect() if target is None else target
        asked = {
            "model": json.dumps(problem.key, sort_keys=True, separators=(",", ":")),
            "tokens": str(workload.tokens),
            "load": workload.load,
            "target": json.dumps(target.key, sort_keys=True, separators=(",", ":")),
            "compiler": _compiler() if compiler is None else compiler,
        } | ({"pack": pack} if pack is not None else {})
        path = f"/v1/best?{urllib.parse.urlencode(asked)}"
        try:
            return self._fresh(path)
        except _Away as away:
            return self._kept(path, away)

    def send(self, lines: str | bytes) -> dict[str, Any]:
        """Send winners as JSON lines (what ``moetune export`` writes); the service's account of them.

        Raises:
            ServiceError: the service says no or cannot be reached.
        """
        data = lines.encode() if isinstance(lines, str) else lines
        headers = {"Content-Type": _JSON_LINES, "Authorization": f"Bearer {self._token}"}
        try:
            account = self._ask("/v1/results", data, headers)
        except _Away as away:
            raise ServiceError(f"{self.url}: {away}; send it again later") from away
        if type(account.get("taken")) is not int:
            raise ServiceError(
                f"{self.url}: does not say how many were taken; is it a moetune service?"
            )
        return account

    def _fresh(self, path: str) -> Selection:
        """The service's answer, which is kept."""
        answer = self._ask(path)
        try:
            selection = _selection(answer)
        except _NO_SELECTION as error:
            told = one_line(str(error)[:_MOST_SHOWN])
            raise ServiceError(f"{self.url}: its answer is no selection ({told})") from error
        kept = self._file(path)
        text = json.dumps({"at": self._clock(), "answer": answer})
        with contextlib.suppress(OSError):  # only a help for later
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, text.encode(), sync=False)
        return selection

    def _kept(self, path: str, away: _Away) -> Selection:
        try:
            kept = json_text.parse(self._file(path).read_bytes())
            selection = _selection(kept["answer"])
            age = _age(self._clock() - float(kept["at"]))
        except (OSError, *_NO_SELECTION) as error:
            message = (
                f"{self.url}: {away}, and it never answered this before; start it or mend the url"
            )
            raise ServiceError(message) from error
        told = f"{selection.reason} (kept answer, {age} old: {self.url} cannot be reached)"
        return dataclasses.replace(selection, reason=told)

    def _ask(
        self, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        request = urllib.request.Request(self.url + path, data, headers or {})
        try:
            answer = web.ask(request, self._timeout_s, _MOST_BYTES)
            if answer.status >= 500:
                raise _Away(f"answered {answer.status}")
            if 200 <= answer.status < 300:
                return _object(answer.body)
        except (web.NoAnswer, JsonError) as error:
            raise _Away(f"cannot be reached ({one_line(str(error))})") from error
        raise ServiceError(f"{self.url}: {_detail(answer)}")

    def _file(self, path: str) -> Path:
        digest = hashlib.sha256(f"{self.url}{path}".encode()).hexdigest()[:32]
        return self._cache / f"{digest}.json"


# Of the fields of a selection that are the same in JSON.
_TEXTS = dict.fromkeys(("template", "variant", "pack", "match", "reason", "load"), str)
_KINDS: dict[str, type] = {**_TEXTS, "config": dict, "evidence": dict, "tokens": int}


class _Away(Exception):
    """No answer of the service."""


@functools.cache
def _compiler() -> str:
    try:
        return toolchain_version()
    except CompileError:  # nothing to compare with: cached binaries run without a compiler
        return ""


def _selection(told: Mapping[str, Any]) -> Selection:
    """The inverse of ``Selection.to_json``. Raises ValueError, TypeError or KeyError for anything else."""
    values = {name: value for name, value in told.items() if name != "arch"}
    for name, kind in _KINDS.items():
        if type(values[name]) is not kind:
            raise ValueError(f"{name}: is a {type(values[name]).__name__}, must be {kind.__name__}")
    if any(type(value) is not int for value in values["config"].values()):
        raise ValueError("config: holds a value that is no whole number")
    distance = math.inf if told["distance"] is None else float(told["distance"])
    try:
        target = target_of(told["target"], "target")
    except TargetError as error:
        raise ValueError(str(error)) from error
    source = str(told.get("source", ""))  # services of before do not say it
    return Selection(**{**values, "target": target, "distance": distance, "source": source})


def _object(text: bytes) -> dict[str, Any]:
    value = json_text.parse(text, "its answer")
    if not isinstance(value, dict):
        raise JsonError("its answer is no JSON object")
    return value


def _detail(answer: web.Answer) -> str:
    """What a problem document says, or where the service says that it is."""
    if answer.moved:
        moved = one_line(answer.moved[:_MOST_SHOWN])
        return f"says that it is at {moved}, which is not followed; give that url if you trust it"
    try:
        return one_line(str(_object(answer.body)["detail"])[:_MOST_SHOWN])
    except (JsonError, KeyError):
        reason = one_line(answer.reason[:_MOST_SHOWN])
        return f"says {answer.status} {reason}; is it a moetune service?"


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
