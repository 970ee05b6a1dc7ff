"""Events: what happened to a batch, numbered from 1 in the order of the commits, each with all counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dail.serve.store.counts import ITEM_STATES, UNIT_STATES, Counts, Flat, by_state
from dail.serve.store.noted import Noted
from dail.serve.store.tables import BATCHES, EVENTS

KEPT = 10_000  # newest events of a batch; each holds all counts, so that older ones are history only
_TRIM_EVERY = 1_000


@dataclass(frozen=True)
class EventRecord:
    n: int
    kind: str
    data: dict[str, Any]


class Events:
    """Part of a transaction, which writes one event for every batch that it changed."""

    def __init__(self, connection: sa.Connection, noted: Noted, counts: Counts) -> None:
        self._sql, self._noted, self._counts = connection, noted, counts

    def write(self) -> None:
        for batch_id, changed in self._noted.batches.items():
            self._write(batch_id, changed.is_status, sorted(changed.items))
        self._noted.batches.clear()

    def _write(self, batch_id: str, is_status: bool, items: list[str]) -> None:
        # the number is the batch's own, and taking it locks the row: numbers have no gaps and follow the commits
        row = self._sql.execute(
            BATCHES.update()
            .where(BATCHES.c.id == batch_id)
            .values(num_events=BATCHES.c.num_events + 1)
            .returning(BATCHES.c.num_events, BATCHES.c.status, BATCHES.c.generation)
        ).one()
        data = {"status": row.status, "generation": row.generation, **_shown(self._counts.keep(batch_id))}
        self._noted.items_ended()
        if items:
            states = self._counts.states(batch_id, items)
            data["items"] = [{"id": item_id, "status": status} for item_id, status in states.items()]
        kind = row.status if is_status else "progress"
        self._sql.execute(EVENTS.insert().values(batch_id=batch_id, n=row.num_events, kind=kind, data=data))
        if row.num_events % _TRIM_EVERY == 0:
            is_old = EVENTS.c.n <= row.num_events - KEPT
            self._sql.execute(EVENTS.delete().where(EVENTS.c.batch_id == batch_id, is_old))

    def after(self, batch_id: str, last: int, limit: int) -> list[EventRecord]:
        query = sa.select(EVENTS).where(EVENTS.c.batch_id == batch_id, EVENTS.c.n > last).order_by(EVENTS.c.n)
        return [EventRecord(row.n, row.kind, row.data) for row in self._sql.execute(query.limit(limit))]

    def last(self, batch_id: str) -> int:
        return self._sql.scalar(sa.select(BATCHES.c.num_events).where(BATCHES.c.id == batch_id)) or 0

    def final(self, batch_id: str) -> EventRecord | None:
        """The last event of a batch that has ended; None while it goes on."""
        query = (
            sa.select(EVENTS)
            .join(BATCHES, sa.and_(BATCHES.c.id == EVENTS.c.batch_id, BATCHES.c.num_events == EVENTS.c.n))
            .where(BATCHES.c.id == batch_id, BATCHES.c.ended_at.is_not(None))
        )
        row = self._sql.execute(query).one_or_none()
        return EventRecord(row.n, row.kind, row.data) if row else None


def _shown(counts: Flat) -> dict[str, Any]:
    """The counts as an event has them; of tokens, those of units that nobody holds."""
    return {
        "request_counts": by_state(counts, "items", ITEM_STATES),
        "units": by_state(counts, "units", UNIT_STATES),
        "tokens": counts["tokens"],
    }
