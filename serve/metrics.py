"""GET /metrics: what Prometheus reads of a server. Labels come from closed sets alone: ids are in the log.

    curl -H "Authorization: Bearer $DAIL_TOKEN" http://127.0.0.1:8765/metrics

What happens is counted when a transaction is committed (`Noted`). What is there (batches, units, the longest wait) is
read of the store when somebody asks, every five seconds at most, from counts that batches keep; of units, those of
batches that have not ended, so that asking costs the same however large the store grows. Of several servers over one
store each counts its own; what is there, all tell.
"""

from __future__ import annotations

import threading
import time
from collections import Counter as Counts
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dail.serve.store.counts import UNIT_STATES
from dail.serve.store.figures import Figures
from dail.serve.store.noted import Noted
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.errors import DailError

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
STATUSES = ("validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
OUTCOMES = ("completed", "failed", "cancelled", "expired")
RESULTS = ("committed", "fenced", "expired", "failed", "cancelled", "handed_back")
REASONS = (
    "none", "other", "cancelled", "context_length_exceeded", "empty_trace", "engine_dead", "engine_died", "extension",
    "extractor_failed", "integrity", "invalid_input", "poisoned_item", "solution_too_long", "storage",
    "stray_turn_mark", "template_failed", "tokenizer_failed", "usage", "worker_stopped",
)  # fmt: skip
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400)
_READ_EVERY_S = 5.0


class Metrics:
    """One app's: a registry of its own, so that several apps in a process do not mix."""

    def __init__(self, read: Callable[[], Figures], free_bytes: Callable[[], int | None]) -> None:
        self._read, self._free_bytes = read, free_bytes
        self._lock, self._read_at = threading.Lock(), float("-inf")
        self.registry = CollectorRegistry()
        route = ("method", "route", "status")
        self.requests = self._counter("dail_http_requests_total", "Requests that were answered.", *route)
        self.request_s = self._histogram(
            "dail_http_request_duration_seconds", "Until its answer's end.", _SECONDS, *route
        )
        self._batches = self._gauge("dail_batches", "Batches of the store.", "status")
        self._units = self._gauge("dail_units", "Units of batches that have not ended.", "state")
        self._oldest = self._gauge(
            "dail_oldest_queued_unit_age_seconds", "Since its batch was posted; 0 if none waits."
        )
        self._workers = self._gauge("dail_workers", "Workers that hold a live lease.")
        self._items = self._counter("dail_items_total", "Items that ended.", "outcome", "reason")
        self._attempts = self._counter("dail_unit_attempts_total", "Leases that ended.", "result")
        self._unit_s = self._histogram("dail_unit_duration_seconds", "From the lease to the commit.", _LONG)
        self._wait_s = self._histogram("dail_queue_wait_seconds", "From the POST to a unit's first lease.", _LONG)
        self._expired = self._counter("dail_leases_expired_total", "Leases that nobody renewed.")
        self._extended = self._counter("dail_restart_grace_total", "Leases that got their whole time again at a start.")
        self.fenced = self._counter("dail_fenced_commits_total", "Commits under a lease that was over.")
        self._commits = self._counter("dail_shard_commits_total", "Shards by what became of them.", "result")
        self._bytes = self._counter("dail_shard_bytes_total", "Bytes of shards that were committed.")
        self._damaged = self._counter("dail_checksum_failures_total", "Shards that were found damaged.")
        self._store_s = self._histogram("dail_store_transaction_duration_seconds", "Transactions.", _SECONDS, "op")
        self._store_errors = self._counter("dail_store_errors_total", "Transactions that the store refused.", "op")
        self._disk = self._gauge("dail_disk_free_bytes", "Where the shards lie.")
        self._gauge("dail_build_info", "This release.", "version").labels(TOOL_VERSION).set(1)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        self._look()
        return generate_latest(self.registry)

    def committed(self, noted: Noted) -> None:
        """Counts what a transaction did, once it is on disk."""
        for (outcome, reason), number in noted.ended.items():
            self._items.labels(outcome, reason if reason in REASONS else "other").inc(number)
        attempts = Counts(attempt.outcome for attempt in noted.attempts)
        for result, number in attempts.items():
            self._attempts.labels(result).inc(number)
        self._expired.inc(attempts["expired"])
        self._extended.inc(noted.num_extended)
        self._commits.labels("committed").inc(attempts["committed"])
        self._bytes.inc(noted.shard_bytes)
        self._damaged.inc(noted.num_damaged)
        for seconds in noted.held_s:
            self._unit_s.observe(seconds)
        for seconds in noted.waited_s:
            self._wait_s.observe(seconds)

    def transaction(self, op: str, seconds: float, is_refused: bool) -> None:
        self._store_s.labels(op).observe(seconds)
        if is_refused:
            self._store_errors.labels(op).inc()

    def request(self, method: str, route: str, status: int, seconds: float, code: str | None) -> None:
        labels = (method if method in METHODS else "other", route, str(status))
        self.requests.labels(*labels).inc()
        self.request_s.labels(*labels).observe(seconds)
        if route == "/internal/v1/leases/{unit}/commit" and status >= 400:
            self._commits.labels("fenced" if code == "fenced" else "refused").inc()
            if code == "fenced":
                self.fenced.inc()
                self._attempts.labels("fenced").inc()

    def _look(self) -> None:
        """Gauges as the store has them. One that does not answer leaves them as they were, and the rest is told."""
        with self._lock:
            if time.monotonic() - self._read_at < _READ_EVERY_S:
                return
            self._read_at = time.monotonic()
            try:
                found = self._read()
                free = self._free_bytes()
            except (DailError, OSError):
                return
        if free is not None:  # all is in a bucket and a database
            self._disk.set(free)
        for status in STATUSES:
            self._batches.labels(status).set(found.batches.get(status, 0))
        for state in UNIT_STATES:
            self._units.labels(state).set(found.units.get(state, 0))
        self._oldest.set(found.oldest_s)
        self._workers.set(found.workers)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Any, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
