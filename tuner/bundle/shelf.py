"""Shelf: bundles in a folder beside a database, each under the SHA-256 of its bytes.

A bundle is there once its facts are (``ID.json``), which are written after its bytes (``ID.moe``): whoever is
killed in between leaves nothing that is listed.
"""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tuner.bundle.private import unwritable_folder, write_whole
from tuner.bundle.reader import Bundle, read_bytes
from tuner.errors import BundleFolderError, BundleTrustError
from tuner.host import json_text
from tuner.store.records import now

_ID = re.compile("[0-9a-f]{64}")
_MODE = 0o600


@dataclass(frozen=True)
class Shelved:
    """What is known of one bundle.

    Attributes:
        id: SHA-256 of its bytes, hex.
        bytes: its size.
        signer: id of the trusted key that signed it; empty where it was taken without one.
        parts: for each problem and target: problem_id, problem_name, arch, tuned, note.
        created: when it was taken, UTC.
    """

    id: str
    bytes: int
    signer: str
    abi: int
    toolchain: str
    parts: tuple[dict[str, Any], ...]
    created: str


class Shelf:
    """The bundles of one folder, which is made when the first one is taken.

    ``unsigned`` takes whole bundles that no trusted key signed, too.
    """

    def __init__(self, folder: Path, unsigned: bool = False) -> None:
        self._folder, self._unsigned = folder, unsigned
        self._lock = threading.Lock()

    def take(self, data: bytes, label: str) -> tuple[Shelved, bool]:
        """Check a bundle and keep it; what is known of it, and whether it is new.

        ``label`` is its name in messages.

        Raises:
            BundleError: one of its kinds, for whatever is wrong with the bundle.
            BundleFolderError, UsageError: the shelf or the trusted keys cannot be used.
        """
        found = self._checked(data, Path(label))
        with self._lock:
            there = self.find(found.sha256)
            if there is not None:
                return there, False
            facts = _facts(found, len(data))
            unwritable_folder(self._folder)
            write_whole(self.path(facts.id), data, _MODE)
            write_whole(self._facts_path(facts.id), json.dumps(asdict(facts)).encode(), _MODE)
        return facts, True

    def page(self, after: str, limit: int) -> list[Shelved]:
        """At most so many bundles by rising id, from behind ``after`` on. Raises BundleFolderError."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(self._folder, error) from error
        ids = sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))
        wanted = [id for id in ids if id > after and _ID.fullmatch(id)][:limit]
        return [found for found in map(self.find, wanted) if found]

    def find(self, id: str) -> Shelved | None:
        """The bundle with this id; None where there is none. Raises BundleFolderError."""
        if not _ID.fullmatch(id):
            return None
        path = self._facts_path(id)
        try:
            values = json_text.parse(path.read_bytes())
            return Shelved(**{**values, "parts": tuple(values["parts"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _unreadable(path, error) from error

    def path(self, id: str) -> Path:
        """Where the bytes of a bundle that ``find`` knows lie."""
        return self._folder / f"{id}.moe"

    def _facts_path(self, id: str) -> Path:
        return self._folder / f"{id}.json"

    def _checked(self, data: bytes, label: Path) -> Bundle:
        try:
            return read_bytes(data, label, "signed")
        except BundleTrustError:
            if not self._unsigned:
                raise
        return read_bytes(data, label, "unsigned")


def path_beside(db: Path) -> Path:
    """The folder of the bundles for the service of a database."""
    return db.with_name(f"{db.name}.bundles")


def _facts(found: Bundle, size: int) -> Shelved:
    parts = tuple(
        {
            "problem_id": section.problem.digest,
            "problem_name": section.problem.name,
            "arch": part.target.arch,
            "tuned": part.tuned,
            "note": part.note,
        }
        for section in found.manifest.sections
        for part in section.parts
    )
    manifest = found.manifest
    return Shelved(found.sha256, size, found.signer, manifest.abi, manifest.toolchain, parts, now())


def _unreadable(path: Path, error: Exception) -> BundleFolderError:
    return BundleFolderError(
        f"{path}: cannot be read ({error}); mend it, or move it away and post the bundle again"
    )
