"""``GET /metrics``: what the service did, for Prometheus. The only file that knows its client."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

MEDIA_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """Counters of one service.

    ``rows`` of a table are asked for when somebody looks.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "moetune_requests", "Answers by route, method and status.",
            ("route", "method", "status"), registry=self._registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "moetune_request_seconds", "Time to an answer by route.", ("route",),
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._kept = Counter(
            "moetune_kept_answers", "Answers that were there already.", registry=self._registry
        )
        self._results = Counter(
            "moetune_results", "Posted winners by outcome.", ("outcome",), registry=self._registry
        )
        self._rows = Gauge(
            "moetune_rows", "Rows of the database.", ("table",), registry=self._registry
        )
        self._quick: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]]
        self._quick = {}

    def answered(self, route: str, method: str, status: int, started: float) -> None:
        """Count one answer; ``started`` is of time.perf_counter."""
        key = (route, method, status)
        if key not in self._quick:
            counter = self._requests.labels(route, method, str(status))
            self._quick[key] = (counter.inc, self._seconds.labels(route).observe)
        count, observe = self._quick[key]
        count()
        observe(time.perf_counter() - started)

    def kept(self) -> None:
        """Count an answer that need not be made again."""
        self._kept.inc()

    def result(self, outcome: str) -> None:
        """Count a posted winner."""
        self._results.labels(outcome).inc()

    def text(self, rows: dict[str, int]) -> bytes:
        """All of it, with the rows of each table."""
        for table, count in rows.items():
            self._rows.labels(table).set(count)
        return generate_latest(self._registry)
