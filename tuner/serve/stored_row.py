"""StoredRow: a winner as it lies in the database; objects and texts are made of it when it is asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from tuner.select.select import EVIDENCE

JSON_COLUMNS = frozenset(("problem", "target", "config", "environment"))
encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# The order of EVIDENCE, in the midst of which are those that are no plain values.
_AT = EVIDENCE.index("is_default")
_BEFORE, _SPECIAL, _AFTER = EVIDENCE[:_AT], EVIDENCE[_AT : _AT + 3], EVIDENCE[_AT + 3 :]
assert _SPECIAL == ("is_default", "target", "environment")


class StoredRow(Mapping[str, Any]):
    """A row of the view ``best`` whose JSON columns are kept as text, which is smaller.

    ``places`` says where in ``values`` each column is.
    """

    __slots__ = ("_parts", "_places", "_values")

    def __init__(self, places: Mapping[str, int], values: tuple[Any, ...]) -> None:
        self._places, self._values = places, values
        self._parts: tuple[str, str] | None = None

    def __getitem__(self, name: str) -> Any:
        value = self._values[self._places[name]]
        if name in JSON_COLUMNS:
            return read(value)
        return bool(value) if name == "is_default" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def variant_text(self) -> str:
        """What a Selection tells of its variant, as JSON without the closing brace."""
        at = self._places
        columns = ("template", "variant", "config", "pack")
        return _variant_text(*(self._values[at[name]] for name in columns))

    def evidence_text(self, target_text: str) -> str:
        """What a Selection tells of it, as JSON; ``target_text`` is that of its target's key."""
        if self._parts is None:
            values, at = self._values, self._places
            before = encode({name: values[at[name]] for name in _BEFORE})[:-1]
            after = encode({name: values[at[name]] for name in _AFTER})[1:]
            is_default = "true" if values[at["is_default"]] else "false"
            environment = values[at["environment"]]  # as the database writes JSON, so is an answer
            self._parts = (
                f'{before},"is_default":{is_default},"target":',
                f',"environment":{environment},{after}',
            )
        return f"{self._parts[0]}{target_text}{self._parts[1]}"


@functools.lru_cache(maxsize=4096)
def read(text: str) -> Any:
    """The value of a JSON text; whoever asks for the same text gets the same object."""
    return json.loads(text)


@functools.lru_cache(maxsize=4096)
def _variant_text(template: str, variant: str, config: str, pack: str) -> str:
    fields = {"template": template, "variant": variant, "config": read(config), "pack": pack}
    return encode(fields)[:-1]
