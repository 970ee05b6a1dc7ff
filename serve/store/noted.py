"""What a transaction changed, by batch: an event is written of it before the commit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dail.serve.store.counts import Counts


@dataclass
class Changed:
    is_status: bool = False
    items: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Attempt:
    """A lease that ended: whose it was, since when, and how. `tokens`: of the trace that was committed."""

    batch_id: str
    unit_id: str
    epoch: int
    worker: str
    begun_at: float
    ended_at: float
    outcome: str
    code: str | None
    tokens: int


@dataclass(frozen=True)
class Traced:
    """What a span says of a batch."""

    id: str
    traceparent: str | None
    model: str
    generation: int
    status: str
    created_at: float
    ended_at: float


class Noted:
    """`batches` is written as events; the rest is for metrics and traces, once the transaction is committed."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.batches: dict[str, Changed] = {}
        self.attempts: list[Attempt] = []
        self.ended_batches: list[str] = []
        self.traced: dict[str, Traced] = {}  # batches of both, if spans are made
        self.reason = "other"  # code of the last unit that failed for good
        self.ended: Counter[tuple[str, str]] = Counter()  # items, by outcome and reason
        self.held_s: list[float] = []  # of units that were committed
        self.waited_s: list[float] = []  # of units that were leased for the first time
        self.shard_bytes = self.num_damaged = 0
        self.num_extended = 0  # leases that a start of the server gave their whole time again

    def attempt(self, unit: Any, outcome: str, code: str | None = None, tokens: int = 0) -> None:
        """A lease ended: that of a unit as its record or row has it."""
        now = time.time()
        begun_at = now if unit.leased_at is None else unit.leased_at
        who = unit.batch_id, unit.unit_id, unit.epoch, unit.owner or ""
        self.attempts.append(Attempt(*who, begun_at, now, outcome, code, tokens))

    def items_ended(self) -> None:
        """Items that reached a last state, by the counts' differences; to be called when these are kept."""
        for state in ("completed", "failed", "cancelled", "expired"):
            if (number := self._counts.moved[f"items {state}"]) > 0:
                self.ended[state, self.reason if state == "failed" else "none"] += number
        self._counts.moved.clear()

    def status(self, batch_id: str) -> None:
        """The batch itself has another state."""
        self.batches.setdefault(batch_id, Changed()).is_status = True

    def units(self, batch_id: str, items: Iterable[str]) -> None:
        """Units of these items are about to move."""
        self.batches.setdefault(batch_id, Changed()).items.update(items)
        self._counts.look(batch_id, items)

    def shard(self, batch_id: str, is_first: bool) -> None:
        """One of its units was committed, as the first trace of a file or not."""
        self._counts.add_shards(batch_id, int(is_first))

    def many(self, batch_id: str) -> None:
        """Many of its units moved at once."""
        self.batches.setdefault(batch_id, Changed())
        self._counts.recount(batch_id)
