"""JSON that came from outside, read strictly: what is taken can be stored, shown and written again.

It is the I-JSON of RFC 7493 (UTF-8, no name twice in an object, no half of a surrogate pair, finite numbers)
with whole numbers of up to 64 bits, as SQLite has them, and nested no deeper than anybody needs.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from tuner.errors import JsonError

# No document of ours is nested deeper than 10; readers of what is passed on may be recursive.
MOST_DEPTH = 100
_LEAST_WHOLE, _MOST_WHOLE = -(1 << 63), (1 << 63) - 1
# Longer numbers have more than 64 bits, and Python refuses those of some thousand digits.
_MOST_DIGITS = 20
_MOST_SHOWN = 80
# A text, even one that nothing ends, or what opens or closes an object or list.
_STRUCTURE = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
# Without one of these no value needs a look: an escaped half of a pair, a long number.
_SUSPECT = re.compile(r"\\u[dD][89a-fA-F]|\d{19}")


def parse(text: str | bytes, what: str = "") -> Any:
    """The value of a JSON text; `what` names it in errors: a file, a line, a body.

    Raises:
        JsonError: it is none, or none of the form above; names the place in it where that is known.
    """
    try:
        return _parsed(text)
    except (ValueError, RecursionError) as error:
        raise JsonError(f"{what}: {error}" if what else str(error)) from error


def mended(text: str) -> str:
    """A text without halves of surrogate pairs, which UTF-8 cannot hold: U+FFFD stands for each."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parsed(text: str | bytes) -> Any:
    text = _unicode(text)
    if text.count("[") + text.count("{") > MOST_DEPTH and _depth(text) > MOST_DEPTH:
        raise ValueError(f"is nested deeper than {MOST_DEPTH}")
    value = json.loads(
        text,
        object_pairs_hook=_unique,
        parse_constant=_refuse,
        parse_float=_finite,
        parse_int=_whole,
    )
    if _SUSPECT.search(text):
        for place, part in _parts(value):
            _check(place, part)
    return value


def _unicode(text: str | bytes) -> str:
    if isinstance(text, bytes):
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 (byte {error.start})") from error
    if not text.isascii():
        _check("", text)
    return text


def _depth(text: str) -> int:
    depth = most = 0
    for token in _STRUCTURE.finditer(text):
        mark = text[token.start()]
        if mark in "[{":
            depth += 1
            most = max(most, depth)
        elif mark in "]}":
            depth -= 1
    return most


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """Every value inside, names too, with its place: ``tried.trial.message``, ``features[3]``."""
    left = [("", value)]
    while left:
        place, part = left.pop()
        yield place, part
        if isinstance(part, dict):
            for name in part:
                yield f"{place} name", name
            left += [(f"{place}.{name}".lstrip("."), inside) for name, inside in part.items()]
        elif isinstance(part, list):
            left += [(f"{place}[{number}]", inside) for number, inside in enumerate(part)]


def _check(place: str, part: Any) -> None:
    """Refuse what cannot be written as UTF-8, or stored by SQLite."""
    where = f"{place[:_MOST_SHOWN]}: ".lstrip(": ")
    if isinstance(part, str):
        try:
            part.encode()
        except UnicodeEncodeError as error:
            half = part[error.start]
            raise ValueError(f"{where}holds {half!a}, half of a surrogate pair") from None
    elif type(part) is int and not _LEAST_WHOLE <= part <= _MOST_WHOLE:
        raise ValueError(f"{where}is a whole number of more than 64 bits")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{twice[:_MOST_SHOWN]!a}: stands twice in one object")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds {text[:_MOST_SHOWN]}, which is too large a number")
    return value


def _whole(text: str) -> int:
    """A number; of one that is too long only that it is, which is then told with its place."""
    return int(text) if len(text) <= _MOST_DIGITS else _MOST_WHOLE + 1


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"holds {constant}, which is no JSON number")
