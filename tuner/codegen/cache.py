"""The cache of binaries: a folder for each source, toolchain and target, found by its key.

A folder ``CACHE/KEY[:2]/KEY`` holds the binary, ``kernel.mojo``, ``stderr.txt`` and ``build.json``. It appears
whole or not at all, and what a source was refused for is remembered as well as what it became. Remembered is
only what the compiler says of the source: a linker, memory, a disk or the time may be better the next time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import CompileError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# "kernel.mojo:1:8: error: ...", or "<unknown>:0: error: ..." of the compiler's later stages.
_OF_SOURCE = re.compile(r"(?:\S*\.mojo|<unknown>):\d+(?::\d+)?: error: ")


class SourceRefused(CompileError):
    """The compiler refused a source, and would again."""


@dataclass(frozen=True)
class Binary:
    """A compiled kernel: its file, cache key and how long the build took (s); of a build of several sources
    its share.

    ``cached`` says that this call did not build it; ``seconds`` are the first build's then.
    """

    path: Path
    key: str
    seconds: float
    cached: bool


def refusal_in(stderr: str) -> str | None:
    """The first line in which the compiler says what is wrong with the source; None where there is none."""
    lines = (line.strip() for line in stderr.splitlines())
    return next((line for line in lines if _OF_SOURCE.match(line)), None)


def place(cache: Path, key: str) -> Path:
    """The folder of a key."""
    return cache / key[:2] / key


def look_up(folder: Path, *, cached: bool = True) -> Binary | None:
    """The binary in ``folder``; None where it is absent or not what was once written there.

    Raises SourceRefused where a refusal is remembered. Caches of before have failures that were none of the
    source; those count as absent.
    """
    try:
        facts = json.loads((folder / "build.json").read_text())
        if facts["status"] == "failed":
            if refusal_in(facts["message"]):
                raise SourceRefused(facts["message"])
            return None
        library = folder / str(facts.get("file", "kernel.so"))
        if sha256(library) != facts["sha256"]:
            return None
        return Binary(library, folder.name, float(facts["seconds"]), cached)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write(draft: Path, facts: Mapping[str, Any], stderr: str) -> None:
    """What is known of a build, beside its binary and source."""
    (draft / "stderr.txt").write_text(stderr)
    (draft / "build.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def publish(draft: Path, folder: Path) -> None:
    """Move a finished build into place; a sound one that another process put there stays."""
    if folder.exists() and not _is_sound(folder):
        with contextlib.suppress(FileNotFoundError):  # another process moves it, too
            folder.rename(draft.with_name(f"{draft.name}-damaged"))
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _is_sound(folder: Path) -> bool:
    try:
        return look_up(folder) is not None
    except CompileError:  # a remembered refusal
        return True


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Turn errors of the file system into CompileErrors that name the cache folder."""
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_SPACE
        why = "is full" if full else f"cannot be written ({error.strerror})"
        mend = "delete it or free some space" if full else "mend its permissions"
        message = f"cache folder {cache} {why}; {mend}, or name another one in MOETUNE_CACHE"
        raise CompileError(message) from error


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
