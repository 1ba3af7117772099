"""What a service is told when it starts: the database and the limits on what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """The database to serve, and limits.

    Attributes:
        db: path of the database; it is there and of this version's schema.
        most_body_bytes: of a request; more is refused with 413.
        most_rows: rows on one page of a list.
        reads_per_s, writes_per_s: requests of one address in a second, on average; more gets 429.
            Bursts of as many as in two seconds are let through.
        head_s: seconds for the head of a request to arrive.
        body_s: seconds for a body to arrive, and for a client to take the next part of an answer.
        answer_s: seconds for an answer to be made.
        most_open: requests that are worked on at one time; more get 503.
        most_bodies: bodies that arrive at one time, from all addresses; more get 503.
        most_bodies_of_one: the same from one address; more get 429.
        writable: whether anything is taken; beside a database that cannot be written nothing is.
        unsigned_bundles: whether whole bundles are taken that no trusted key signed.
        peers: a file of benchmarks/cpu_peers.py; its times stand beside ours on the pages.
    """

    db: Path
    most_body_bytes: int = 4 << 20
    most_rows: int = 200
    reads_per_s: float = 20_000.0
    writes_per_s: float = 10.0
    head_s: float = 10.0
    body_s: float = 20.0
    answer_s: float = 20.0
    most_open: int = 512
    most_bodies: int = 64
    most_bodies_of_one: int = 8
    writable: bool = True
    unsigned_bundles: bool = False
    peers: Path | None = None
