"""Space file: a template's .toml as it was written, checked; errors name the file and the line.

Expressions are still text: ``tuner.space.space`` makes numbers of them.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.errors import SpaceError
from tuner.space import templates as template
from tuner.space.expression import names_in
from tuner.space.failure import FAILURES
from tuner.space.toml_lines import Place, line_of, line_of_error

FACTS = frozenset(
    "bf16_dot cores simd_bytes registers l1d_bytes l2_bytes l3_bytes core_cache_bytes hidden expert_dim "
    "num_experts top_k gated shared_dim row_bytes mixed_types tokens expert_rows".split()
)
WORKLOAD_FACTS = frozenset(("tokens", "expert_rows"))


@dataclass(frozen=True)
class Parameter:
    """One tunable as its file has it; expressions are still text."""

    name: str
    short: str
    values: tuple[int | str, ...]
    default: int | str
    when: str
    help: str
    at_run_time: bool = (
        False  # no part of the source: variants that differ in it alone share a binary
    )

    @functools.cached_property
    def options(self) -> tuple[int, ...] | None:
        """The values in their order; None where they depend on the facts."""
        numbers = [int(value) for value in self.values if not isinstance(value, str)]
        return tuple(dict.fromkeys(numbers)) if len(numbers) == len(self.values) else None


@dataclass(frozen=True)
class Restriction:
    """A rule over parameters and facts, and why it is there."""

    rule: str
    why: str


@dataclass(frozen=True)
class Monotone:
    """Parameters that alone decide a kind of failure: where it came once, it comes for all larger values."""

    failure: str
    parameters: tuple[str, ...]
    why: str

    def rules_out(self, failed: Mapping[str, int], config: Mapping[str, int]) -> bool:
        """Whether a configuration must fail, too, where `failed` did."""
        return all(config[name] >= failed[name] for name in self.parameters)


@dataclass(frozen=True)
class SpaceFile:
    """A template's space file, checked: every name known, no value list empty."""

    template: str
    parameters: tuple[Parameter, ...]
    restrictions: tuple[Restriction, ...]
    pack: tuple[str, ...]
    starts: tuple[Mapping[str, int], ...]
    supports: tuple[tuple[str, tuple[str, ...]], ...]
    monotone: tuple[Monotone, ...] = ()
    path: Path = field(default=Path(), compare=False)

    @functools.cached_property
    def of_workload(self) -> tuple[str, ...] | None:
        """The expressions that depend on the workload; None where one of them reads parameters, too.

        Two workloads for which they have the same values have the same default and the same space.
        """
        texts = (text for p in self.parameters for text in (p.default, p.when, *p.values))
        told = {text for text in texts if isinstance(text, str) and text}
        told |= {restriction.rule for restriction in self.restrictions}
        found = sorted(text for text in told if names_in(text) & WORKLOAD_FACTS)
        own = {p.name for p in self.parameters}
        return None if any(names_in(text) & own for text in found) else tuple(found)

    def wrong(self, place: Place, message: str) -> SpaceError:
        """An error in this file, with its line."""
        return _error(self.path, self.path.read_text(), place, message)


class _Wrong(SpaceError):
    """Something wrong at a place of a space file."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def _error(path: Path, text: str, place: Place, message: str) -> SpaceError:
    name = f"{place.table}.{place.key}".strip(".")
    return SpaceError(f"{path}:{line_of(text, place) or 1}: {name}: {message}")


@functools.cache
def load(name: str, path: Path | None = None) -> SpaceFile:
    """Reads and checks a template's space file. Errors name the file, the line and what is wrong there."""
    path = path or template.space_path(name)
    text = path.read_text()
    try:
        file = _parse(name, path, tomllib.loads(text))
        _check(file)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"{path}:{line_of_error(text, error)}: is no TOML: {error}") from error
    except _Wrong as error:
        raise _error(path, text, error.place, str(error)) from error
    return file


def _field(row: Any, place: Place, kind: type = object) -> Any:
    """What a table has under the key of its place, if it is of that kind."""
    value = row.get(place.key) if isinstance(row, dict) else None
    if value is None:
        raise _Wrong(place, f"{place.key!r} is missing; see templates/moe_cpu.toml for the form")
    if not isinstance(value, kind):
        raise _Wrong(place, f"must be a {kind.__name__}, is {value!r}")
    return value


def _parse(name: str, path: Path, data: Mapping[str, Any]) -> SpaceFile:
    def rows(table: str) -> Iterator[tuple[Any, int]]:
        return ((row, number) for number, row in enumerate(data.get(table, [])))

    tables = _field(data, Place("", "parameters"), dict)
    return SpaceFile(
        template=name,
        parameters=tuple(_parameter(key, row) for key, row in tables.items()),
        restrictions=tuple(
            Restriction(
                *(_field(row, Place("restrictions", key, n), str) for key in ("rule", "why"))
            )
            for row, n in rows("restrictions")
        ),
        pack=tuple(_field(data.get("pack"), Place("pack", "parameters"), list)),
        starts=tuple(row for row, _ in rows("starts")),
        supports=tuple(
            (key, tuple(_field(data["supports"], Place("supports", key), list)))
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
        path=path,
    )


def _parameter(name: str, row: Any) -> Parameter:
    table = f"parameters.{name}"
    return Parameter(
        name,
        _field(row, Place(table, "short"), str),
        tuple(_field(row, Place(table, "values"), list)),
        _field(row, Place(table, "default")),
        row.get("when", ""),
        _field(row, Place(table, "help"), str),
        _field({"at_run_time": False, **row}, Place(table, "at_run_time"), bool),
    )


def _check(file: SpaceFile) -> None:
    names = {p.name for p in file.parameters}
    shorts: dict[str, str] = {}
    for parameter in file.parameters:
        _check_parameter(parameter, shorts)
    for number, restriction in enumerate(file.restrictions):
        _check_names(Place("restrictions", "rule", number), restriction.rule, FACTS | names)
    _check_parameters(Place("pack", "parameters"), file.pack, names)
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


def _check_parameter(parameter: Parameter, shorts: dict[str, str]) -> None:
    """`shorts` are the short names so far, with whose they are: a default may read those parameters."""
    table = f"parameters.{parameter.name}"
    if not parameter.values:
        raise _Wrong(Place(table, "values"), "is empty; give at least the default")
    texts = [("values", value) for value in parameter.values]
    texts += [("default", parameter.default), ("when", parameter.when)]
    for key, text in texts:
        if isinstance(text, str) and text:
            known = FACTS | set(shorts.values()) if key == "default" else FACTS
            _check_names(Place(table, key), text, known)
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
    except SpaceError as error:
        raise _Wrong(place, str(error)) from error
    if unknown:
        raise _Wrong(place, f"{text!r} reads {', '.join(unknown)}, which is not known")
