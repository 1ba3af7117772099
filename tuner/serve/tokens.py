"""Tokens: who may write to a service. They lie hashed in a file beside the database.

Not in the database itself: that one is copied and shared. A token is ``moetune_ID_SECRET``; the id
finds the entry and is no secret, of the secret (256 random bits) only the SHA-256 is kept. Random
secrets of that length need no slow hash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import TokenError, UsageError
from tuner.host import json_text
from tuner.host.files import write_whole
from tuner.store.records import now

RESULTS, BUNDLES = "results", "bundles"
SCOPES = (RESULTS, BUNDLES)
_FORM = re.compile(r"moetune_([0-9a-f]{12})_([0-9A-Za-z_-]{43})")
# What an unknown id is compared with: no secret has it, and it takes as long.
_NOBODY = "0" * 64


@dataclass(frozen=True)
class Token:
    """One token without its secret.

    Attributes:
        id: 12 hex digits, the part of the token that is no secret.
        name: what its owner calls it.
        scopes: what it may write, of SCOPES.
        digest: SHA-256 of the secret, hex.
        created, revoked: UTC; ``revoked`` is empty while it holds.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    digest: str
    created: str
    revoked: str = ""


def path_beside(db: Path) -> Path:
    """The file of the tokens for the service of a database."""
    return db.with_name(f"{db.name}.tokens.json")


class Tokens:
    """The tokens of one file, read anew when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stamp: tuple[int, int, int] | None = None
        self._tokens: dict[str, Token] = {}

    def create(self, name: str, scopes: Sequence[str]) -> str:
        """Add a token and return it whole, which nothing can do again.

        Raises:
            UsageError: a name that a token has, or a scope that is not known.
            TokenError: the file cannot be read or written.
        """
        unknown = sorted(set(scopes) - set(SCOPES))
        if unknown or not scopes:
            told = ", ".join(unknown) or "none given"
            raise UsageError(f"scope {told}: not known; use {' or '.join(SCOPES)}")
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        token = Token(id, name, tuple(dict.fromkeys(scopes)), _digest(secret), now())
        with self._changing() as tokens:
            if any(there.name == name and not there.revoked for there in tokens):
                raise UsageError(f"token {name!r}: there is one already; revoke it or name another")
            self._write([*tokens, token])
        return f"moetune_{id}_{secret}"

    def revoke(self, wanted: str) -> Token:
        """Let a token, by its id or name, hold no longer. Raises UsageError where none is left."""
        with self._changing() as tokens:
            left = [t for t in tokens if wanted in (t.id, t.name) and not t.revoked]
            if not left:
                raise UsageError(
                    f"token {wanted!r}: not there or revoked; see `moetune token list`"
                )
            revoked = dataclasses.replace(left[0], revoked=now())
            self._write([revoked if t.id == revoked.id else t for t in tokens])
        return revoked

    def all(self) -> tuple[Token, ...]:
        """Every token, revoked ones too, in the order of creation. Raises TokenError."""
        self._refresh()
        return tuple(self._tokens.values())

    def holder(self, text: str) -> Token | None:
        """The token that this text is, if it holds. The time this takes tells nothing about secrets."""
        self._refresh()
        form = _FORM.fullmatch(text)
        id, secret = form.groups() if form else ("", "")
        token = self._tokens.get(id)
        same = hmac.compare_digest(token.digest if token else _NOBODY, _digest(secret))
        return token if token and same and not token.revoked else None

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._stamp, self._tokens = None, {}
            return
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._tokens = {token.id: token for token in self._read()}
            self._stamp = stamp

    def _read(self) -> list[Token]:
        try:
            rows = json_text.parse(self.path.read_bytes())
            return [Token(**{**row, "scopes": tuple(row["scopes"])}) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            message = f"{self.path}: cannot be read ({error}); mend it, or move it away and make new tokens"
            raise TokenError(message) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens there are, while no other process changes them."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(f"{self.path}.lock", "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield self._read()
        except OSError as error:
            message = f"{self.path}: cannot be written ({error.strerror}); make its folder writable"
            raise TokenError(message) from error

    def _write(self, tokens: Iterable[Token]) -> None:
        """Whole or not at all; for the owner's eyes alone."""
        text = json.dumps([dataclasses.asdict(token) for token in tokens], indent=1)
        write_whole(self.path, text.encode(), 0o600)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
