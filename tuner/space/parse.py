"""Parse: a template's .toml read and checked; errors name the file, the line and the mend."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tuner.errors import SpaceError
from tuner.space import templates
from tuner.space.expression import names_in
from tuner.space.failure import FAILURES
from tuner.space.file import (
    FACTS,
    KINDS,
    SUPPORTS,
    WORKERS,
    Default,
    Interface,
    Monotone,
    Parameter,
    Restriction,
    SpaceFile,
    error,
)
from tuner.space.toml_lines import Place, line_of_error

FORM = "see templates/moe_cpu.toml for the form"


class _Wrong(SpaceError):
    """Something wrong at a place of a space file."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


@functools.cache
def load(name: str, path: Path | None = None) -> SpaceFile:
    """Reads and checks a template's space file. Errors name the file, the line and what is wrong there."""
    path = path or templates.space_path(name)
    text = _read(path)
    try:
        file = _parse(name, path, tomllib.loads(text))
        _check(file)
    except tomllib.TOMLDecodeError as wrong:
        raise SpaceError(f"{path}:{line_of_error(text, wrong)}: is no TOML: {wrong}") from wrong
    except _Wrong as wrong:
        raise error(path, text, wrong.place, str(wrong)) from wrong
    return file


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as wrong:
        raise SpaceError(f"{path}: is no text in UTF-8: {wrong}") from wrong


def is_current(template: str, digest: str) -> bool:
    """Whether what was made with a template of this digest is what the installed one makes.

    It is where the digest is the present one, or one of the file's `[history]`. False for a template that
    is not installed.
    """
    if template not in templates.names():
        return False
    return digest == templates.digest(template) or digest in load(template).former


def _field(row: Any, place: Place, kind: type = object) -> Any:
    """What a table has under the key of its place, if it is of that kind."""
    value = row.get(place.key) if isinstance(row, dict) else None
    if value is None:
        raise _Wrong(place, f"{place.key!r} is missing; {FORM}")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _Wrong(place, f"must be a {kind.__name__}, is {value!r}")
    return value


def _parse(name: str, path: Path, data: Mapping[str, Any]) -> SpaceFile:
    def rows(table: str) -> Iterator[tuple[Any, int]]:
        return ((row, number) for number, row in enumerate(data.get(table, [])))

    tables = _field(data, Place("", "parameters"), dict)
    pack = data.get("pack")
    return SpaceFile(
        template=name,
        interface=_interface(data.get("interface")),
        parameters=tuple(_parameter(key, row) for key, row in tables.items()),
        restrictions=tuple(
            Restriction(
                *(_field(row, Place("restrictions", key, n), str) for key in ("rule", "why"))
            )
            for row, n in rows("restrictions")
        ),
        pack=tuple(_field(pack, Place("pack", "parameters"), list)),
        family=_field({"family": name, **(pack or {})}, Place("pack", "family"), str),
        starts=tuple(row for row, _ in rows("starts")),
        supports=tuple(
            (key, _names(data["supports"], Place("supports", key)))
            for key in _field(data, Place("", "supports"), dict)
        ),
        monotone=tuple(
            Monotone(
                _field(row, Place("monotone", "failure", n), str),
                tuple(_field(row, Place("monotone", "parameters", n), list)),
                _field(row, Place("monotone", "why", n), str),
            )
            for row, n in rows("monotone")
        ),
        former=frozenset(
            _names(data["history"], Place("history", "same")) if "history" in data else ()
        ),
        path=path,
    )


def _names(row: Any, place: Place) -> tuple[str, ...]:
    """A list of names, one at least."""
    names = _field(row, place, list)
    if not names or not all(isinstance(name, str) for name in names):
        raise _Wrong(place, f"must be a list of names, is {names!r}")
    return tuple(names)


def _interface(row: Any) -> Interface:
    return Interface(
        _field(row, Place("interface", "kind"), str),
        _field(row, Place("interface", "ragged"), str),
        _field(row, Place("interface", "priority"), int),
    )


def _parameter(name: str, row: Any) -> Parameter:
    table = f"parameters.{name}"
    return Parameter(
        name,
        _field(row, Place(table, "short"), str),
        tuple(_field(row, Place(table, "values"), list)),
        _defaults(_field(row, Place(table, "default")), Place(table, "default")),
        _field({"when": "", **row}, Place(table, "when"), str),
        _field(row, Place(table, "help"), str),
        _field({"at_run_time": False, **row}, Place(table, "at_run_time"), bool),
    )


def _defaults(given: Any, place: Place) -> tuple[Default, ...]:
    """The rows of a default: a number or an expression is one row, which always holds."""
    if not isinstance(given, list):
        return (Default(given),)
    table = f"{place.table}.{place.key}"
    found = []
    for number, row in enumerate(given):
        value, why = (_field(row, Place(table, key, number)) for key in ("value", "why"))
        when = _field({"when": "", **row}, Place(table, "when", number), str)
        last = number == len(given) - 1
        if bool(when) == last:
            mend = "the last row is for all else and has none" if last else "only the last has none"
            raise _Wrong(Place(table, "when", number), f"is {when!r}, but {mend}")
        found.append(Default(value, when, why))
    if not found:
        raise _Wrong(place, "has no row; give at least one with `value` and `why`")
    return tuple(found)


def _check(file: SpaceFile) -> None:
    names = {p.name for p in file.parameters}
    shorts: dict[str, str] = {}
    for parameter in file.parameters:
        _check_parameter(parameter, shorts)
    for number, restriction in enumerate(file.restrictions):
        _check_names(Place("restrictions", "rule", number), restriction.rule, FACTS | names)
    _check_parameters(Place("pack", "parameters"), file.pack, names)
    if not re.fullmatch("([a-z][a-z0-9_]*)?", file.family):
        message = f"is {file.family!r}, must be of a-z, 0-9 and _; or empty, or left out"
        raise _Wrong(Place("pack", "family"), message)
    _check_interface(file.interface, names)
    for key, _ in file.supports:
        if key not in SUPPORTS:
            raise _Wrong(Place("supports", key), f"is not known; use {', '.join(SUPPORTS)}")
    kinds = dict(file.supports).get("kind", ())
    if not kinds or not set(kinds) <= set(KINDS):
        raise _Wrong(Place("supports", "kind"), f"must be of {', '.join(KINDS)}")
    if any(KINDS[kind] != file.interface.kind for kind in kinds):
        message = f"{file.interface.kind!r} is no binary for kind {', '.join(kinds)} of [supports]"
        raise _Wrong(Place("interface", "kind"), message)
    for number, start in enumerate(file.starts):
        for name in start:
            _check_parameters(Place("starts", name, number), [name], names)
    for number, rule in enumerate(file.monotone):
        if rule.failure not in FAILURES:
            message = f"failure {rule.failure!r} must be one of {list(FAILURES)}"
            raise _Wrong(Place("monotone", "failure", number), message)
        place = Place("monotone", "parameters", number)
        if not rule.parameters:
            raise _Wrong(place, f"failure {rule.failure!r} names no parameter")
        _check_parameters(place, rule.parameters, names)


def _check_interface(interface: Interface, names: Collection[str]) -> None:
    if interface.kind not in KINDS.values():
        message = f"{interface.kind!r} is no kind of binary; use one of {', '.join(KINDS.values())}"
        raise _Wrong(Place("interface", "kind"), message)
    tiles = [interface.ragged] if interface.ragged else []
    _check_parameters(Place("interface", "ragged"), tiles, names)


def _check_parameter(parameter: Parameter, shorts: dict[str, str]) -> None:
    """`shorts` are the short names so far, with whose they are: `default` and `when` may read those."""
    table = f"parameters.{parameter.name}"
    if parameter.at_run_time and parameter.name != WORKERS:
        message = f"the host says {WORKERS} alone at a call; leave it out, and read a constant"
        raise _Wrong(Place(table, "at_run_time"), message)
    if not parameter.values:
        raise _Wrong(Place(table, "values"), "is empty; give at least the default")
    for place, text in parameter.texts:
        known = FACTS if place.key == "values" else FACTS | set(shorts.values())
        _check_names(place, text, known)
    other = shorts.setdefault(parameter.short, parameter.name)
    if other != parameter.name:
        raise _Wrong(Place(table, "short"), f"{parameter.short!r} is that of {other}, too")


def _check_parameters(place: Place, given: Sequence[str], names: Collection[str]) -> None:
    for name in given:
        if name not in names:
            raise _Wrong(place, f"{name} is no parameter; there are {', '.join(sorted(names))}")


def _check_names(place: Place, text: str, known: frozenset[str]) -> None:
    try:
        unknown = sorted(names_in(text) - known)
    except SpaceError as wrong:
        raise _Wrong(place, str(wrong)) from wrong
    if unknown:
        raise _Wrong(place, f"{text!r} reads {', '.join(unknown)}, which is not known")
