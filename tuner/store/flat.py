"""Flat: trials as rows of plain values, a column a value, as spreadsheets and data frames take them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tuner.store import listings

if TYPE_CHECKING:
    from tuner.store.database import Database

# Objects of a row whose values become columns: `config.tile_rows`, `environment.toolchain`.
_OBJECTS = ("config", "environment")

Row = dict[str, Any]


def trial_rows(db: Database, wanted: Mapping[str, Any]) -> list[Row]:
    """The trials that match, oldest first; ``wanted`` is as in ``tuner.store.listings.trials``."""
    won = {row["trial_id"] for row in db.best(problem_id=wanted.get("problem"))}
    return [
        _flat(row | {"is_winner": row["id"] in won}) for row in listings.trials(db, wanted, 0, -1)
    ]


def _flat(row: Mapping[str, Any]) -> Row:
    plain = {name: value for name, value in row.items() if name not in _OBJECTS}
    inner = {
        f"{name}.{key}": _plain(value) for name in _OBJECTS for key, value in row[name].items()
    }
    return plain | inner


def _plain(value: Any) -> Any:
    """A list or object, which other versions may have stored, as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
