"""The fields of a line of winners as text, and the checks of what came from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tuner.errors import DatabaseError, TargetError
from tuner.host import json_text
from tuner.target import KINDS, Target

Fields = Mapping[str, tuple[type, ...]]

_TEXT = (str,)
_WHOLE = (int,)
_NUMBER = (int, float)
_MAYBE = (int, float, type(None))
_OBJECT = (dict,)
_OPTIONAL = (dict, type(None))

# What each object of a line holds: its fields and their types in JSON.
LINE: Fields = {
    "problem": _OBJECT,
    "target": _OBJECT,
    "tokens": _WHOLE,
    "load": _TEXT,
    "winner": _OBJECT,
    "tried": _OBJECT,
    "default": _OPTIONAL,
}
KEY: Fields = {"key": _OBJECT, "name": _TEXT}
TRIED: Fields = {"variant": _OBJECT, "trial": _OBJECT, "measurement": _OPTIONAL}
VARIANT: Fields = {
    "id": _TEXT,
    "template": _TEXT,
    "name": _TEXT,
    "config": _OBJECT,
    "pack": _TEXT,
}
TRIAL: Fields = {
    "status": _TEXT,
    "message": _TEXT,
    "source_digest": _TEXT,
    "binary_key": _TEXT,
    "render_ms": _MAYBE,
    "compile_ms": _MAYBE,
    "verify_ms": _MAYBE,
    "benchmark_ms": _MAYBE,
    "environment": _OBJECT,
    "session": _TEXT,
    "created": _TEXT,
}
MEASUREMENT: Fields = {
    "kind": _TEXT,
    "temperature": _TEXT,
    "sample_count": _WHOLE,
    "median_ns": _NUMBER,
    "low_ns": _NUMBER,
    "high_ns": _NUMBER,
    "p95_ns": _MAYBE,
    "p99_ns": _MAYBE,
    "gflop_s": _MAYBE,
    "gb_s": _MAYBE,
    "ceiling": _TEXT,
    "ceiling_fraction": _MAYBE,
}
WINNER: Fields = {
    "ratio": _NUMBER,
    "ratio_low": _NUMBER,
    "ratio_high": _NUMBER,
    "is_default": (bool,),
    "median_ns": _NUMBER,
    "gflop_s": _MAYBE,
    "gb_s": _MAYBE,
    "ceiling_fraction": _MAYBE,
    "created": _TEXT,
}
_OF_TYPE = {"str": _TEXT, "int": _WHOLE, "tuple[str, ...]": (list,)}
_TARGET: Fields = {f.name: _OF_TYPE[str(f.type)] for f in dataclasses.fields(Target) if f.compare}


def read(text: bytes) -> Any:
    """The JSON of a line, all of which can be stored and written again. Raises JsonError."""
    return json_text.parse(text)


def target_of(key: Any, where: str, name: str = "") -> Target:
    """The Target of a key that came from outside: just its fields, each of its type.

    Raises:
        TargetError: a field is missing, not known or of another type.
    """
    try:
        fields = checked(key, _TARGET, where)
    except DatabaseError as error:
        raise TargetError(f"{error}; give the fields of Target") from error
    if not all(isinstance(feature, str) for feature in fields.get("features", ())):
        raise TargetError(f"{where}.features: must be texts; give the compiler's names")
    for field, value in fields.items():
        least = 1 if field == "cores" else 0
        if type(value) is int and value < least:
            raise TargetError(f"{where}.{field}: is {value}, must be at least {least}")
    if fields["kind"] not in KINDS:
        kinds = " or ".join(KINDS)
        raise TargetError(f"{where}.kind: is {ascii(fields['kind'])[:80]}, must be {kinds}")
    return Target.from_key(fields | {"name": name})


def checked(data: Any, fields: Fields, where: str) -> dict[str, Any]:
    """Return ``data`` if it is an object with exactly these fields of these types."""
    if not isinstance(data, dict):
        raise DatabaseError(f"{where}: must be an object")
    for name in sorted(data.keys() ^ fields.keys()):
        raise DatabaseError(f"{where}: {'lacks' if name in fields else 'does not know'} {name}")
    for name, types in fields.items():
        # Not isinstance: true is no number.
        if type(data[name]) not in types:
            wanted = " or ".join(kind.__name__ for kind in types)
            raise DatabaseError(f"{where}.{name}: is {ascii(data[name])[:80]}, must be {wanted}")
    return data
