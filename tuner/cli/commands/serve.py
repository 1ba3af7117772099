"""``moetune serve``: the database over HTTP."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import click

from tuner.cli import screen
from tuner.cli.options import db_option
from tuner.errors import DatabaseError
from tuner.host.optional import required
from tuner.serve.settings import Settings
from tuner.store.database import Database, default_path

_DEFAULTS = {field.name: field.default for field in fields(Settings)}


@click.command()
@db_option
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address to listen on; 0.0.0.0 for all.")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True,
              help="0: one that is free.")  # fmt: skip
@click.option("--most-body", type=click.IntRange(min=1024), default=_DEFAULTS["most_body_bytes"],
              show_default=True, help="Bytes of a request's body.")  # fmt: skip
@click.option("--reads", type=click.FloatRange(0, min_open=True), default=_DEFAULTS["reads_per_s"],
              show_default=True, help="Reading requests of one address in a second.")  # fmt: skip
@click.option("--writes", type=click.FloatRange(0, min_open=True), default=_DEFAULTS["writes_per_s"],
              show_default=True, help="Writing requests of one address in a second.")  # fmt: skip
@click.option("--unsigned-bundles", is_flag=True,
              help="Take whole bundles that no trusted key signed, too.")  # fmt: skip
@click.option("--peers", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="A file of benchmarks/cpu_peers.py --out: its times stand on the pages, too.")  # fmt: skip
def serve(
    db: Path | None,
    host: str,
    port: int,
    most_body: int,
    reads: float,
    writes: float,
    unsigned_bundles: bool,
    peers: Path | None,
) -> None:
    """Answer for the database over HTTP: an API under /v1, a page at /.

    The API is described at /openapi.json. What is posted needs a token: `moetune token create`.
    """
    with required("serve"):
        from tuner.serve import server
    path = db or default_path()
    settings = Settings(
        path,
        most_body_bytes=most_body,
        reads_per_s=reads,
        writes_per_s=writes,
        writable=_open(path),
        unsigned_bundles=unsigned_bundles,
        peers=peers,
    )
    out = screen.stderr()
    taken = "" if settings.writable else ", which is read-only: nothing is taken"
    server.run(settings, host, port, lambda url: out.print(f"{url} serves {path}{taken}"))


def _open(path: Path) -> bool:
    """Make the database or bring it to this version's schema; False where it can only be read."""
    try:
        Database(path).close()
    except DatabaseError:
        Database(path, read_only=True).close()
        return False
    return True
