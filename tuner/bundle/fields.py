"""Reading JSON that came from outside: every value is of the type that is asked for, or refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NoReturn

from tuner.errors import BundleManifestError, JsonError
from tuner.host import json_text


class Fields:
    """One JSON object; `place` says where it stands, for messages."""

    def __init__(self, value: object, place: str) -> None:
        self.place = place
        if not isinstance(value, dict):
            self.refuse("is no object")
        self._values: dict[str, Any] = value

    def refuse(self, why: str) -> NoReturn:
        raise BundleManifestError(f"{self.place}: {why}; build the bundle again")

    def text(self, name: str, pattern: str = r"[^\x00-\x1f]{0,4096}") -> str:
        """A text that matches the pattern as a whole."""
        value = self._of(name, str)
        if not re.fullmatch(pattern, value):
            self.refuse(f"{name} is {value[:80]!r}")
        return str(value)

    def count(self, name: str, least: int = 0, most: int = 1 << 53) -> int:
        """A whole number between `least` and `most`."""
        value = self._of(name, int)
        if isinstance(value, bool) or not least <= value <= most:
            self.refuse(f"{name} must be a whole number of {least} to {most}")
        return int(value)

    def optional_count(self, name: str) -> int | None:
        """A whole number of at least 0, or null."""
        return None if self._of(name, (int, type(None))) is None else self.count(name)

    def flag(self, name: str) -> bool:
        return bool(self._of(name, bool))

    def fields(self, name: str) -> Fields:
        """An object inside this one."""
        return Fields(self._of(name, dict), f"{self.place}, {name}")

    def raw(self, name: str) -> dict[str, Any]:
        """An object that is passed on as it is."""
        return dict(self._of(name, dict))

    def texts(self, name: str) -> tuple[str, ...]:
        values = self._of(name, list)
        if not all(isinstance(value, str) for value in values):
            self.refuse(f"{name} must be texts")
        return tuple(values)

    def rows(self, name: str) -> Iterator[Fields]:
        """The objects of a list."""
        for number, value in enumerate(self._of(name, list)):
            yield Fields(value, f"{self.place}, {name} {number}")

    def items(self) -> Iterator[tuple[str, Fields]]:
        """Name and object, of an object whose values are all objects."""
        for name in self._values:
            yield name, self.fields(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def counts(self) -> dict[str, int]:
        """All values, whole numbers of at least 0, by name."""
        return {name: self.count(name) for name in self._values}

    def _of(self, name: str, kind: type | tuple[type, ...]) -> Any:
        if name not in self._values:
            self.refuse(f"lacks {name}")
        value = self._values[name]
        if not isinstance(value, kind):
            self.refuse(f"{name} is a {type(value).__name__}")
        return value


def read_json(data: bytes, place: str) -> Fields:
    """The one object of a JSON text: UTF-8, no name twice, no NaN.

    Raises BundleManifestError for anything else.
    """
    try:
        value = json_text.parse(data)
    except JsonError as error:
        raise BundleManifestError(f"{place}: cannot be read ({error}); build it again") from error
    return Fields(value, place)
