"""What an earlier moetune wrote of a CPU kernel's threads, as it is meant now.

`workers` was a number of threads that was compiled in: a target's cores where all of them worked. Now those are
0, whatever the cores of the machine that runs it, and a smaller number is a limit.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping
from typing import Any

# Written out: the names and digests of that time, whatever a template and its variants become.
TEMPLATE, WORKERS, LETTER = "moe_cpu", "workers", "w"
_READ = f"""SELECT DISTINCT variants.id, variants.name, config, pack, target_id,
    json_extract(targets.data, '$.cores')
    FROM trials JOIN variants ON variants.id = variant_id JOIN targets ON targets.id = target_id
    WHERE template = '{TEMPLATE}'
    AND json_extract(config, '$.{WORKERS}') = json_extract(targets.data, '$.cores')"""


def meant(variant: dict[str, Any], cores: int) -> dict[str, Any]:
    """A variant (id, template, name, config, pack) of a target with so many cores; an id that does not follow
    from the rest stays what it is."""
    config = variant["config"]
    if variant["template"] != TEMPLATE or config.get(WORKERS) != cores:
        return variant
    name = _renamed(variant["name"], cores)
    changed = {**config, WORKERS: 0}
    sound = variant["id"] == _digest(variant["name"], config)
    id_ = _digest(name, changed) if sound else variant["id"]
    return {**variant, "id": id_, "name": name, "config": changed}


def migrate(connection: sqlite3.Connection) -> None:
    """All rows of a database."""
    for id_, name, config, pack, target_id, cores in connection.execute(_READ).fetchall():
        told = {"id": id_, "template": TEMPLATE, "name": name, "config": json.loads(config)}
        now = meant({**told, "pack": pack}, cores)
        text = json.dumps(now["config"], sort_keys=True, separators=(",", ":"))
        connection.execute(
            "INSERT OR IGNORE INTO variants (id, template, name, config, pack) VALUES (?, ?, ?, ?, ?)",
            [now["id"], TEMPLATE, now["name"], text, pack],
        )
        connection.execute(
            "UPDATE trials SET variant_id = ? WHERE variant_id = ? AND target_id = ?",
            [now["id"], id_, target_id],
        )
        unused = "DELETE FROM variants WHERE id = ? AND id NOT IN (SELECT variant_id FROM trials)"
        connection.execute(unused, [id_])
    _migrate_sessions(connection)


def _migrate_sessions(connection: sqlite3.Connection) -> None:
    """What a session ended with names variants anywhere in its data."""
    rows = connection.execute(
        """SELECT sessions.id, sessions.data, json_extract(targets.data, '$.cores')
        FROM sessions JOIN targets ON targets.id = target_id"""
    )
    for id_, data, cores in rows.fetchall():
        changed = _renamed(data, cores)
        connection.execute("UPDATE sessions SET data = ? WHERE id = ?", [changed, id_])


def _renamed(text: str, cores: int) -> str:
    """The names of such variants in a text."""
    return re.sub(rf"\b({TEMPLATE}(?:_[a-z]\d+)*?_{LETTER}){cores}(?=_)", r"\g<1>0", text)


def _digest(name: str, config: Mapping[str, int]) -> str:
    text = json.dumps([TEMPLATE, name, sorted(config.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
