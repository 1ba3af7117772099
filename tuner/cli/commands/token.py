"""``moetune token``: who may write to a service."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tuner.cli import screen
from tuner.cli.options import db_option, json_option
from tuner.serve.tokens import SCOPES, Tokens, path_beside
from tuner.store.database import path_to_read


@click.group()
def token() -> None:
    """Make, list and revoke the tokens that let others write to `moetune serve`."""


@token.command()
@click.argument("name")
@click.option("--scope", "scopes", type=click.Choice(SCOPES), multiple=True, default=SCOPES[:1],
              show_default=True, help="What it may write; may be given several times.")  # fmt: skip
@db_option
def create(name: str, scopes: tuple[str, ...], db: Path | None) -> None:
    """Make a token and print it: it is not kept and cannot be shown again."""
    tokens = _tokens(db)
    screen.echo(tokens.create(name, scopes))
    screen.stderr().print(f"hashed in {tokens.path}; send it as `Authorization: Bearer TOKEN`")


@token.command("list")
@db_option
@json_option
def list_(db: Path | None, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    rows = [
        (
            t.id,
            t.name,
            ", ".join(t.scopes),
            t.created,
            f"revoked {t.revoked}" if t.revoked else "active",
        )
        for t in _tokens(db).all()
    ]
    names = ("id", "name", "scopes", "created", "status")
    if as_json:
        screen.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2))
    else:
        screen.stdout().print(screen.table(names, rows))


@token.command()
@click.argument("token", metavar="ID|NAME")
@db_option
def revoke(token: str, db: Path | None) -> None:
    """Revoke a token; a running service knows at once."""
    revoked = _tokens(db).revoke(token)
    screen.echo(f"{revoked.id} {revoked.name}: revoked")


def _tokens(db: Path | None) -> Tokens:
    return Tokens(path_beside(path_to_read(db)))
