"""Tokens: hashed, scoped, revocable, and checked in a time that tells nothing."""

from __future__ import annotations

import hmac
import json
import stat
from pathlib import Path

import pytest

from tests.commands import Run
from tuner.errors import TokenError, UsageError
from tuner.serve.tokens import BUNDLES, RESULTS, Tokens, path_beside


@pytest.fixture
def tokens(database: Path) -> Tokens:
    return Tokens(path_beside(database))


def test_a_token_is_known_until_it_is_revoked(tokens: Tokens) -> None:
    text = tokens.create("lab", [RESULTS])
    found = tokens.holder(text)
    assert found is not None
    assert (found.name, found.scopes, found.revoked) == ("lab", (RESULTS,), "")
    assert Tokens(tokens.path).revoke("lab").id == found.id  # by another process, so to say
    assert tokens.holder(text) is None
    assert [t.revoked != "" for t in tokens.all()] == [True]


def test_no_secret_is_kept_and_the_file_is_the_owners(tokens: Tokens) -> None:
    text = tokens.create("lab", [RESULTS, BUNDLES])
    secret = text.split("_", 2)[2]
    assert secret not in tokens.path.read_text()
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600


def test_other_texts_are_nobody(tokens: Tokens) -> None:
    text = tokens.create("lab", [RESULTS])
    other = tokens.create("desk", [RESULTS])
    mixed = "_".join([*text.split("_", 2)[:2], other.split("_", 2)[2]])
    for wrong in ("", "moetune", text[:-1], text + "x", text.upper(), mixed, "é" * 64):
        assert tokens.holder(wrong) is None


def test_every_check_compares_once(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known, unknown, revoked and misspelt: each hashes a secret and compares two digests, once."""
    text = tokens.create("lab", [RESULTS])
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr("tuner.serve.tokens.hmac.compare_digest", compare)
    revoked = tokens.create("gone", [RESULTS])
    tokens.revoke("gone")
    for asked in (
        text,
        text[:-1] + "x",
        text.replace("_", "-"),
        revoked,
        "moetune_000000000000_" + "a" * 43,
    ):
        tokens.holder(asked)
    assert compared == [(64, 64)] * 5


def test_names_and_scopes_are_checked(tokens: Tokens) -> None:
    tokens.create("lab", [RESULTS])
    with pytest.raises(UsageError, match="token 'lab': there is one already"):
        tokens.create("lab", [RESULTS])
    with pytest.raises(UsageError, match="scope everything: not known; use results or bundles"):
        tokens.create("other", ["everything"])
    with pytest.raises(UsageError, match="token 'who': not there or revoked"):
        tokens.revoke("who")
    tokens.revoke("lab")
    tokens.create("lab", [RESULTS])


def test_a_damaged_file_is_named(tokens: Tokens) -> None:
    tokens.path.write_text("{}{")
    with pytest.raises(TokenError, match=r"tokens\.json: cannot be read"):
        tokens.holder("moetune_x")


def test_the_commands(moetune: Run, database: Path) -> None:
    made = moetune("token create lab --scope results --scope bundles")
    assert made.code == 0
    (row,) = json.loads(moetune("token list --json").out)
    assert (row["name"], row["scopes"], row["status"]) == ("lab", "results, bundles", "active")
    assert Tokens(path_beside(database)).holder(made.out.strip()) is not None
    assert moetune(f"token revoke {row['id']}").out == f"{row['id']} lab: revoked\n"
    again = moetune("token revoke lab")
    assert (again.code, again.out) == (2, "")
    assert "lab" in moetune("token list").out
